"""The shop's pages."""

from __future__ import annotations

from django.urls import path

from shop import views

urlpatterns = [
    path("orders", views.orders),
    path("orders/<int:number>", views.order),
    path("health", views.health),
]
