"""The shop's own tests: `manage.py test` runs them in a test database on the primary."""

from __future__ import annotations

from django.test import TestCase, TransactionTestCase

from shop.models import Order


class OrderTests(TestCase):
    """Each test in a transaction that is rolled back."""

    def test_an_order_is_placed_once_for_each_key(self) -> None:
        """The second request finds the first order."""
        for _ in range(2):
            reply = self.client.post(
                "/orders", {"item": "tea"}, content_type="application/json", headers={"Idempotency-Key": "1"}
            )
            self.assertEqual(reply.status_code, 201)
        self.assertEqual(
            self.client.get("/orders").json()["orders"], [{"id": reply.json()["id"], "item": "tea"}]
        )

    def test_a_key_of_another_item_is_refused(self) -> None:
        """The key names one order."""
        Order.objects.create(key="1", item="tea")
        reply = self.client.post(
            "/orders", {"item": "coffee"}, content_type="application/json", headers={"Idempotency-Key": "1"}
        )
        self.assertEqual(reply.status_code, 422)


class CommittedTests(TransactionTestCase):
    """Each test with commits of its own."""

    def test_what_is_committed_is_read(self) -> None:
        """The alias for reading mirrors the writer."""
        Order.objects.create(key="1", item="tea")
        self.assertEqual(Order.objects.get().item, "tea")
        self.assertEqual(self.client.get("/orders").json()["orders"][0]["item"], "tea")
