"""`AzureAccount`: an account and its credentials.

adlfs prefers a connection string in the environment to a named account, and an account key in the environment to a SAS
token, so that a private model could be sent to another account. Here, given values come before the environment.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from gllm_storage.errors import require_printable

_NAME = "AZURE_STORAGE_ACCOUNT_NAME"
ACCOUNT_HOSTS = (".dfs.core.windows.net", ".blob.core.windows.net")
"""The ends of the hosts of Azure's accounts, in URLs."""
_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_KEY = "AZURE_STORAGE_ACCOUNT_KEY"
_SAS = "AZURE_STORAGE_SAS_TOKEN"


@dataclass(frozen=True)
class AzureAccount:
    """An account and the credentials for it. Secrets are not shown.

    Attributes:
        name: Its name; None if it is unknown, as for an endpoint that a connection string names.
        endpoint_url: Its URL; None if a connection string names it.
        connection_string: Names the account, the endpoint and the credentials instead.
        account_key: Its key.
        sas_token: A shared access signature.
        principal: Tenant, client id and secret of a service principal.
        anonymous: Whether requests carry no credentials.
        credential: A credential object for the SDK, such as one of azure-identity, or an `AzureSasCredential`.
    """

    name: str | None = None
    endpoint_url: str | None = None
    connection_string: str | None = field(default=None, repr=False)
    account_key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    principal: tuple[str, str, str] | None = field(default=None, repr=False)
    anonymous: bool = False
    credential: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the secrets, which become parts of URLs and headers.

        Raises:
            ValueError: If one has a control character, such as the newline at the end of a file.
        """
        require_printable(f"connection_string (or {_CONNECTION_STRING})", self.connection_string)
        require_printable(f"account_key (or {_KEY})", self.account_key)
        require_printable(f"sas_token (or {_SAS})", self.sas_token)
        require_printable("client_secret", self.principal[2] if self.principal else None)

    @staticmethod
    def is_in_environment() -> bool:
        """Whether the environment names an account, in the variables of adlfs."""
        return bool(os.environ.get(_NAME) or os.environ.get(_CONNECTION_STRING))

    @classmethod
    def resolve(
        cls,
        *,
        account_name: str | None = None,
        connection_string: str | None = None,
        account_key: str | None = None,
        sas_token: str | None = None,
        principal: tuple[str, str, str] | None = None,
        anonymous: bool = False,
        endpoint_url: str | None = None,
        credential: Any = None,
    ) -> AzureAccount:
        """The given account; the environment adds the missing settings.

        Raises:
            ValueError: If no account is named anywhere, or a credential has a control character.
        """
        if connection_string:
            return cls(_name_in(connection_string), connection_string=connection_string)
        if not account_name and not (account_key or sas_token or principal or anonymous or credential):
            of_environment = os.environ.get(_CONNECTION_STRING)
            if of_environment:
                if not _names_account(of_environment):
                    raise ValueError(f"{_CONNECTION_STRING} has neither AccountName nor BlobEndpoint")
                return cls(_name_in(of_environment), connection_string=of_environment)
        named_key = getattr(credential, "named_key", None)  # of an AzureNamedKeyCredential
        if named_key is not None:
            account_name, account_key, credential = account_name or named_key.name, named_key.key, None
        elif isinstance(credential, str):
            account_key, sas_token = (account_key, credential) if "sig=" in credential else (credential, sas_token)
            credential = None
        name = account_name or os.environ.get(_NAME)
        if not name:
            raise ValueError(f"no Azure account is named: give account_name or connection_string, or set {_NAME}")
        url = endpoint_url or f"https://{name}.blob.core.windows.net"
        url = url if "://" in url else f"https://{url}"  # as the SDK
        if credential is not None and not (account_key or sas_token or principal or anonymous):
            return cls(name, url, credential=credential)
        if not (account_key or sas_token or principal or anonymous):
            account_key = os.environ.get(_KEY) or None
            sas_token = None if account_key else os.environ.get(_SAS) or None
        return cls(name, url, None, account_key, sas_token, principal, anonymous)

    @property
    def uses_identity(self) -> bool:
        """Whether the SDK gets a credential object: the caller's, or one of azure-identity."""
        return not (self.connection_string or self.account_key or self.sas_token or self.anonymous)

    @property
    def signing_key(self) -> str | None:
        """The account key, which signs URLs; None if there is none."""
        if self.connection_string is None:
            return self.account_key
        parts = (part.partition("=") for part in self.connection_string.split(";"))
        return next((value for name, _, value in parts if name.strip().lower() == "accountkey"), None)

    def plain(self) -> tuple[str, tuple[str, bytes] | None, str] | None:
        """The URL of the account, its name and key, and the SAS token; None if the SDK has to find them.

        The SDK finds them in unusual connection strings, and has the credentials of azure-identity.

        Raises:
            ValueError: If the account key is not base64.
        """
        if self.connection_string:
            return _plain_in(self.connection_string)
        if self.uses_identity or "?" in str(self.endpoint_url):
            return None
        key = (str(self.name), key_of(self.account_key)) if self.account_key else None
        return str(self.endpoint_url), key, "" if key or not self.sas_token else self.sas_token.lstrip("?")

    def as_connection_string(self) -> str:
        """The account as a connection string, which adlfs prefers to its other options.

        Raises:
            ValueError: If its credentials come from azure-identity.
        """
        if self.connection_string:
            return self.connection_string
        if self.uses_identity:
            raise ValueError("credentials of azure-identity do not fit into a connection string")
        parts = {
            "DefaultEndpointsProtocol": urlsplit(str(self.endpoint_url)).scheme,
            "AccountName": self.name,
            "AccountKey": self.account_key,
            "BlobEndpoint": self.endpoint_url,
            "SharedAccessSignature": self.sas_token.lstrip("?") if self.sas_token else None,
        }
        return ";".join(f"{name}={value}" for name, value in parts.items() if value)

    def adlfs_options(self) -> dict[str, Any]:
        """The options of adlfs that name the account."""
        if not self.uses_identity:
            named = {"account_name": self.name} if self.name else {}
            return {**named, "connection_string": self.as_connection_string(), "anon": self.anonymous}
        tenant, client, secret = self.principal or (None, None, None)
        options = {
            "account_name": self.name,
            "account_host": urlsplit(str(self.endpoint_url)).netloc,
            "tenant_id": tenant,
            "client_id": client,
            "client_secret": secret,
            "credential": self.credential,
            "anon": False,
        }
        return {name: value for name, value in options.items() if value is not None}


def key_of(text: str) -> bytes:
    """An account key.

    Raises:
        ValueError: If the text is not base64.
    """
    try:
        return base64.b64decode(text)
    except binascii.Error as error:
        raise ValueError("the account key is not base64") from error


def _plain_in(connection_string: str) -> tuple[str, tuple[str, bytes] | None, str] | None:
    """As `AzureAccount.plain`."""
    parts = [part.partition("=") for part in connection_string.rstrip(";").split(";")]
    fields = {name.upper(): value for name, _, value in parts}
    name, key, suffix = (fields.get(each, "") for each in ("ACCOUNTNAME", "ACCOUNTKEY", "ENDPOINTSUFFIX"))
    url = fields.get("BLOBENDPOINT", "")
    if not url and name:
        scheme = fields.get("DEFAULTENDPOINTSPROTOCOL", "https") if suffix else "https"
        url = f"{scheme}://{name}.blob.{suffix or 'core.windows.net'}"
    unusual = fields.keys() & {"USEDEVELOPMENTSTORAGE", "BLOBSECONDARYENDPOINT"} or not all(each[1] for each in parts)
    if unusual or "://" not in url or "?" in url:
        return None
    if name and key:
        return url, (name, key_of(key)), ""
    return url, None, fields.get("SHAREDACCESSSIGNATURE", "").lstrip("?")


def _names_account(connection_string: str) -> bool:
    names = {part.partition("=")[0].strip().lower() for part in connection_string.split(";")}
    return bool(names & {"accountname", "blobendpoint", "usedevelopmentstorage"})


def _name_in(connection_string: str) -> str | None:
    parts = (part.partition("=") for part in connection_string.split(";"))
    return next((value for name, _, value in parts if name.strip().lower() == "accountname"), None)
