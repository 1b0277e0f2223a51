"""What the shop keeps."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order. However often its client sends the key, there is one order."""

    id = models.BigAutoField(primary_key=True)
    key = models.CharField(max_length=200, unique=True)
    item = models.CharField(max_length=200)

    class Meta:
        """Names the table."""

        db_table = "pgroute_web_order"

    def __str__(self) -> str:
        return f"{self.id}: {self.item}"
