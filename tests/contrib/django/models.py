"""The tables of these tests."""

from __future__ import annotations

from django.db import models


class Note(models.Model):
    text = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True)
    data = models.JSONField(default=dict)

    class Meta:
        app_label = "notes"


class Comment(models.Model):
    note = models.ForeignKey(Note, models.CASCADE)
    text = models.CharField(max_length=200)

    class Meta:
        app_label = "notes"
