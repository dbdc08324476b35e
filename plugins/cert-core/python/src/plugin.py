"""Which device a client certificate belongs to, and what it may do. ../../README.md is the specification."""

import json
import re
from collections.abc import Callable

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.authenticator import (
    Authenticated,
    Authentication,
    Authentication_Abstain,
    Authentication_Accept,
    Authentication_Deny,
)
from wit_world.exports.authorizer import (
    Acl_Inline,
    AclRule,
    Actions,
    Authorization,
    Authorization_Abstain,
    Authorization_Allow,
    Authorization_Deny,
    Effect,
    Grant,
    Limits,
    QosLevels,
    RetainMatch,
)
from wit_world.exports.lifecycle import ConfigProblem, InitError_InvalidConfig, PluginContext
from wit_world.imports.certificates import (
    Certificate,
    ChainStatus_Verified,
    GeneralName_Dns,
    GeneralName_Malformed,
    GeneralName_Uri,
)
from wit_world.imports.connections import Connection
from wit_world.imports.types import Attribute, ConnackReason, Denial, Identity, Value_Text

COMMON_NAME = "2.5.4.3"
SERIAL_NUMBER = "2.5.4.5"
ORGANIZATION = "2.5.4.10"
ORGANIZATIONAL_UNIT = "2.5.4.11"

URI_PREFIX = "urn:device:"
LONGEST_VALUE = 256

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
SPECIAL = re.compile("[/+#$]")

EVERY_QOS = QosLevels.AT_MOST_ONCE | QosLevels.AT_LEAST_ONCE | QosLevels.EXACTLY_ONCE


class Refusal(Exception):
    """The answer is no; caught where a hook answers."""

    def __init__(self, detail: str, reason: ConnackReason = ConnackReason.NOT_AUTHORIZED):
        super().__init__(detail)
        self.denial = Denial(
            reason=reason,
            client_message=None,
            audit_detail=detail,
            server_reference=None,
            cache=None,
            attributes=[],
        )


class Lifecycle(exports.Lifecycle):
    def init(self, context: PluginContext) -> None:
        try:
            settings = json.loads(context.config)
        except ValueError:
            settings = None
        # Not `not settings`: an empty list is no object.
        if settings != {}:
            raise Err(InitError_InvalidConfig([ConfigProblem(at="", message="cert-core has no settings")]))


class Authenticator(exports.Authenticator):
    def authenticate(self, on: Connection) -> Authentication:
        leaf = trusted(on)
        if leaf is None:
            return Authentication_Abstain()
        try:
            return Authentication_Accept(Authenticated(identity=identify(on, leaf), cache=None))
        except Refusal as refusal:
            return Authentication_Deny(refusal.denial)


class Authorizer(exports.Authorizer):
    def authorize(self, on: Connection, who: Identity) -> Authorization:
        leaf = trusted(on)
        if leaf is None:
            return Authorization_Abstain()
        try:
            return Authorization_Allow(grant(on, leaf, who.device_id))
        except Refusal as refusal:
            return Authorization_Deny(refusal.denial)


def trusted(on: Connection) -> Certificate | None:
    """The certificate, if a trust anchor vouches for what it says."""
    certificate = on.certificate
    if certificate is None or not isinstance(certificate.chain, ChainStatus_Verified):
        return None
    return certificate.leaf


def identify(on: Connection, leaf: Certificate) -> Identity:
    if leaf.is_ca:
        raise Refusal("the certificate is that of a CA")
    source, device_id = device_id_of(leaf)
    tenant = one_value("o", leaf)
    check_session(on, device_id)
    return Identity(
        device_id=device_id,
        tenant=tenant,
        tags=[f"x509-v{leaf.version}"],
        attributes=[text("cert.source", source)],
    )


def device_id_of(leaf: Certificate) -> tuple[str, str]:
    """The field that names the device, and its name.

    A field that cannot be used ends the search: a certificate must not choose by which of its names it is known.
    """
    for field in ("san.uri", "cn", "san.dns", "serial-number", "serial"):
        value = one_value(field, leaf)
        if value is not None:
            return field, value
    raise Refusal("the certificate names no device")


def one_value(field: str, leaf: Certificate) -> str | None:
    """The value of a field that must not be ambiguous, fit to be a name and a topic level."""
    values = VALUES[field](leaf, field)
    if not values:
        return None
    if len(values) > 1:
        raise Refusal(f"the certificate has {len(values)} values for {field}")
    if why := unfit(values[0]):
        raise Refusal(f"{field} of the certificate {why}")
    return values[0]


def uris(leaf: Certificate, field: str) -> list[str]:
    names = alt_names(leaf, field, GeneralName_Uri)
    return [uri.removeprefix(URI_PREFIX) for uri in names if uri.startswith(URI_PREFIX)]


def alt_names(leaf: Certificate, field: str, kind: type) -> list[str]:
    """A malformed name could be of any kind, so it spoils every kind."""
    return [
        strict(name.value if isinstance(name, kind) else None, field)
        for name in leaf.subject_alt_names
        if isinstance(name, (kind, GeneralName_Malformed))
    ]


def subject(oid: str) -> Callable[[Certificate, str], list[str]]:
    def values(leaf: Certificate, field: str) -> list[str]:
        return [strict(attribute.text, field) for attribute in leaf.subject.attributes if attribute.oid == oid]

    return values


VALUES: dict[str, Callable[[Certificate, str], list[str]]] = {
    "san.uri": uris,
    "san.dns": lambda leaf, field: alt_names(leaf, field, GeneralName_Dns),
    "cn": subject(COMMON_NAME),
    "serial-number": subject(SERIAL_NUMBER),
    "o": subject(ORGANIZATION),
    "ou": subject(ORGANIZATIONAL_UNIT),
    "serial": lambda leaf, _: [leaf.serial.hex()],
}


def strict(value: str | None, field: str) -> str:
    """The broker promises text without controls; who decides on it looks once more."""
    if value is None or CONTROL.search(value):
        raise Refusal(f"{field} of the certificate is not plain text")
    return value


def unfit(value: str) -> str | None:
    """Why a value is no plain level of a topic."""
    if not value:
        return "is empty"
    if len(value.encode()) > LONGEST_VALUE:
        return f"is longer than {LONGEST_VALUE} bytes"
    if special := SPECIAL.search(value):
        return f"holds {special[0]}"
    if INVISIBLE.search(value):
        return "holds a control or invisible character"
    return None


def check_session(on: Connection, device_id: str) -> None:
    if why := unfit(device_id):
        raise Refusal(f"the device id {why}")
    # Otherwise `a` could take the sessions of `a:b`.
    if ":" in device_id:
        raise Refusal("the device id holds :")
    client_id = on.connect.client_id
    if client_id not in ("", device_id) and not client_id.startswith(f"{device_id}:"):
        raise Refusal(
            "the client id does not belong to the device", ConnackReason.CLIENT_IDENTIFIER_NOT_VALID
        )


def grant(on: Connection, leaf: Certificate, device_id: str) -> Grant:
    check_session(on, device_id)
    rules = [allow(Actions.PUBLISH | Actions.SUBSCRIBE, "devices/${device-id}/#")]
    group = one_value("ou", leaf)
    if group is not None:
        rules.append(allow(Actions.SUBSCRIBE, f"groups/{group}/#"))
    return Grant(
        acl=Acl_Inline(rules),
        otherwise=Effect.DENY,
        limits=Limits(
            maximum_qos=1 if on.connect.protocol_level == 3 else None,
            retain_available=None,
            maximum_packet_size=None,
            receive_maximum=None,
            topic_alias_maximum=None,
            session_expiry=None,
            keep_alive=None,
            subscriptions=100,
            publishes_per_second=None,
            publish_bytes_per_second=None,
        ),
        assigned_client_id=None if on.connect.client_id else device_id,
        valid_for=None,
        cache=None,
        attributes=[text("policy.rule", "own-topics")],
    )


def allow(actions: Actions, topic_filter: str) -> AclRule:
    return AclRule(
        effect=Effect.ALLOW, actions=actions, filter=topic_filter, qos=EVERY_QOS, retain=RetainMatch.ANY
    )


def text(name: str, value: str) -> Attribute:
    return Attribute(name=name, value=Value_Text(value))
