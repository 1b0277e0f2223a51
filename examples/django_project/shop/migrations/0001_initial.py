"""Orders, each with the key that its client has given it."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """Makes the table."""

    initial = True
    operations = (
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("key", models.CharField(max_length=200, unique=True)),
                ("item", models.CharField(max_length=200)),
            ],
            options={"db_table": "pgroute_web_order"},
        ),
    )
