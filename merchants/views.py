"""Signing in and out."""

from __future__ import annotations

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView

from merchants.pages import own_page


class SignInForm(AuthenticationForm):
    """E-mail address and password."""

    username = forms.EmailField(
        label="E-mail address",
        widget=forms.EmailInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    error_messages = {
        "invalid_login": (
            "No account has this e-mail address and password. Check both; capitals count in the password."
        ),
        "inactive": "This account is switched off. An owner can switch it on again.",
    }


sign_in = own_page(
    LoginView.as_view(
        template_name="merchants/login.html",
        authentication_form=SignInForm,
        redirect_authenticated_user=True,
        next_page="board",
    )
)
sign_out = own_page(LogoutView.as_view(next_page="login"))
