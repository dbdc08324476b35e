#!/usr/bin/env python3
"""Makes cases/tokens.json and src/tests/fixtures.rs anew; needs the package `cryptography`.

The keys of P-256 and Ed25519 are those of the number 7 repeated, so that the native tests sign with them too. The RSA keys are
thrown away."""

import base64, hashlib, hmac, json, pathlib, ssl
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

HERE = pathlib.Path(__file__).parent
NOW = 1767312000
SECRET = b"0123456789abcdef0123456789abcdef"
P256 = ec.derive_private_key(int.from_bytes(bytes([7] * 32), "big"), ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))
RSA = rsa.generate_private_key(65537, 2048)
RSA_1024 = rsa.generate_private_key(65537, 1024)


def pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(n):
    return b64(n.to_bytes((n.bit_length() + 7) // 8, "big"))


def sign(algorithm, data, key=None):
    sha = hashes.SHA256()
    if algorithm == "ES256":
        r, s = utils.decode_dss_signature(P256.sign(data, ec.ECDSA(sha)))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    if algorithm == "EdDSA":
        return ED25519.sign(data)
    if algorithm == "RS256":
        return RSA.sign(data, padding.PKCS1v15(), sha)
    if algorithm == "PS256":
        return RSA.sign(data, padding.PSS(padding.MGF1(sha), 32), sha)
    if algorithm == "HS256":
        return hmac.new(key or SECRET, data, hashlib.sha256).digest()
    return b""


def thumbprint(name):
    der = ssl.PEM_cert_to_DER_cert((HERE / f"{name}.pem").read_text())
    return {"x5t#S256": b64(hashlib.sha256(der).digest())}


def token(algorithm="ES256", header=None, key=None, signed_as=None, **claims):
    body = {"iss": "https://id.example", "aud": "mqgate", "sub": "meter-7", "org": "acme", "roles": ["meter"],
            "iat": NOW, "exp": NOW + 3600, "cnf": thumbprint("meter-7"),
            "publish": ["meters/meter-7/data"], "subscribe": ["commands/all"], **claims}
    body = {name: value for name, value in body.items() if value is not None}
    head = {"alg": algorithm, "typ": "JWT", **(header or {})}
    text = b64(json.dumps(head).encode()) + "." + b64(json.dumps(body).encode())
    return text + "." + b64(sign(signed_as or algorithm, text.encode(), key))


CONFIG = {
    "keys": [{"algorithm": "ES256", "kid": "2026", "pem": pem(P256)}, {"algorithm": "EdDSA", "pem": pem(ED25519)},
             {"algorithm": "PS256", "pem": pem(RSA)}],
    "jwks": {"keys": [{"kty": "RSA", "use": "sig", "kid": "r", "n": number(RSA.public_key().public_numbers().n), "e": "AQAB"},
                      {"kty": "oct", "k": b64(SECRET), "alg": "HS256"}]},
    "issuer": "https://id.example", "audience": "mqgate", "tenant": "${org}", "tags-claim": "roles",
    "topics": {"allow-subscribe": ["commands/${device-id}/#"], "publish-claim": "publish",
               "publish-within": ["meters/${device-id}/#"], "subscribe-claim": "subscribe", "subscribe-within": ["commands/#"]},
    "limits": {"maximum-qos": 1},
}
GOOD = token()
BY_NAME = {"plugin": {"config": {"binding": {"claim": "sub", "field": "cn"}}}}
BEARER = {"plugin": {"config": {"binding": "none"}}}
HS256 = {"plugin": {"config": {"keys": [{"algorithm": "HS256", "secret": base64.b64encode(SECRET).decode()}]}}}


def case(name, password, expect, certificate=None, hook="authenticator", **more):
    connection = {"connect": {"password": password}, **more.pop("connection", {})}
    if certificate:
        connection["certificate"] = {"file": f"{certificate}.pem"}
    if hook == "authorizer":
        more.setdefault("identity", {"device_id": "meter-7", "tenant": "acme"})
    return {"name": name, "hook": hook, "connection": connection, **more, "expect": expect}


def bad(why):
    return {"verdict": "deny", "reason": "bad-user-name-or-password", "audit_detail": why}


def no(why):
    return {"verdict": "deny", "reason": "not-authorized", "audit_detail": why}


HELLO = {"verdict": "accept", "device_id": "meter-7", "tenant": "acme", "tags": ["meter"], "cache": None}
head, body, signature = GOOD.split(".")
forged = b64(json.dumps({**json.loads(base64.urlsafe_b64decode(body + "==")), "sub": "meter-8"}).encode())
CASES = [
    case("ES256", GOOD, HELLO),
    case("ES256 with the name of the key", token(header={"kid": "2026"}), HELLO),
    case("EdDSA", token("EdDSA"), HELLO),
    case("RS256, a key of the set", token("RS256", {"kid": "r"}), HELLO),
    case("PS256", token("PS256"), HELLO),
    case("HS256 where it is configured", token("HS256"), HELLO, **HS256),
    case("topics of the configuration and of the token", GOOD,
         {"verdict": "allow", "otherwise": "deny", "valid_for": 3660, "limits": {"maximum_qos": 1}, "cache": None,
          "rules": ["allow subscribe commands/${device-id}/#", "allow publish meters/meter-7/data",
                    "allow subscribe commands/all"]}, hook="authorizer"),
    case("no password, no opinion", None, "abstain"),
    case("another password, no opinion", "open sesame", "abstain"),
    case("where a token is required", "open sesame", bad("the password is no token"),
         plugin={"config": {"required": True}}),
    case("none is no algorithm", token("none"), bad('its algorithm is "none"')),
    case("a public key is no secret", token("HS256", key=pem(P256).encode()), bad("there is no key for HS256 and no kid")),
    case("a secret among published keys is none", token("HS256"), bad("there is no key for HS256 and no kid")),
    case("a key is for one algorithm", token("PS256", {"kid": "r"}, signed_as="RS256"), bad("its signature (PS256) is not good")),
    case("an unknown key", token(header={"kid": "2025"}), bad('there is no key for ES256 and kid "2025"')),
    case("a key in the header is not believed", token(header={"jwk": {"kty": "EC"}}, signed_as="none"),
         bad("its signature (ES256) is not good")),
    case("an extension", token(header={"crit": ["exp"]}), bad("its header has crit, and no extension is understood")),
    case("other claims under a good signature", f"{head}.{forged}.{signature}", bad("its signature (ES256) is not good")),
    case("expired", token(exp=NOW - 61), bad("it expired 61 s ago")),
    case("not yet", token(nbf=NOW + 61), bad("it does not hold yet (nbf)")),
    case("for ever", token(exp=None), bad("there is no exp")),
    case("another issuer", token(iss="https://evil.example"), bad('iss is "https://evil.example"')),
    case("another audience", token(aud=["billing"]), bad('aud is ["billing"]')),
    case("stolen by another certificate", GOOD, no("it was issued for another certificate (cnf)"), "meter-8"),
    case("shown without a certificate", GOOD, no("it was issued for a certificate (cnf), and the client has none"),
         connection={"certificate": None}),
    case("for any certificate", token(cnf=None), no("it names no certificate (cnf)")),
    case("for any certificate, where that is enough", token(cnf=None), HELLO, "meter-8", **BEARER),
    case("a certificate of the same name", token(cnf=None), HELLO, **BY_NAME),
    case("a certificate of another name", token(cnf=None), no('the claim "sub" is not cn of the certificate'), "meter-8",
         **BY_NAME),
    case("a certificate of two names", token(cnf=None), no("the certificate has 2 values for cn"), "two-names", **BY_NAME),
    case("confirmed by a key that nobody proves", token(cnf={"jkt": "x"}),
         no("cnf holds something else than one x5t#S256"), **BEARER),
    case("a name that is a wildcard", token(sub="a/#"), no("claims: sub holds /")),
    case("a topic out of bounds", token(publish=["meters/meter-8/data"]),
         no('"meters/meter-8/data" in the claim "publish" is more than a token may grant'), hook="authorizer"),
    case("a placeholder in a topic", token(publish=["meters/meter-7/${tenant}"]),
         no('"meters/meter-7/${tenant}" in the claim "publish" is more than a token may grant'), hook="authorizer"),
    case("the token of another device", GOOD, no('the token is that of "meter-7", the client that of "meter-8"'),
         hook="authorizer", identity="meter-8"),
    case("a live session whose token has expired", GOOD, bad("it expired 61 s ago"), hook="authorizer",
         connection={"attributes": {"reauthorization.at": (NOW + 3661) * 1000}}),
]
COMMON = {"plugin": {"grant": ["credentials"], "config": CONFIG},
          "connection": {"accepted_at": NOW * 1000,
                         "certificate": {"file": "meter-7.pem", "anchor": {"name": "test-ca", "fingerprint": "33" * 32}}}}
cases = ",\n".join("    " + json.dumps(one) for one in CASES)
common = json.dumps(COMMON, indent=2).replace("\n", "\n  ")
(HERE / "tokens.json").write_text(f'{{\n  "common": {common},\n  "cases": [\n{cases}\n  ]\n}}\n')

CONSTANTS = {"P256": pem(P256), "ED25519": pem(ED25519), "RSA": pem(RSA), "RSA_1024": pem(RSA_1024),
             "RS256_TOKEN": token("RS256", cnf=None), "PS256_TOKEN": token("PS256", cnf=None)}
text = "//! Made by cases/make-tokens.py: public keys, and tokens of an RSA key that is thrown away.\n"
for name, value in CONSTANTS.items():
    text += f'\npub const {name}: &str = "{value.strip()}";\n'
(HERE.parent / "src/tests/fixtures.rs").write_text(text)
