"""The plugin without a broker: `mqgate plugin test --native plugins/cert-core/python`, or PYTHONPATH=BINDINGS:src python3 -m unittest discover test

BINDINGS is the folder that `componentize-py … bindings` wrote; the types of the ABI are there.
"""

import unittest
from types import SimpleNamespace

from componentize_py_types import Err
from wit_world.exports.authenticator import Authentication_Abstain, Authentication_Accept
from wit_world.exports.authorizer import Authorization_Abstain
from wit_world.imports.certificates import ChainStatus_Unverified, ChainStatus_Verified, GeneralName_Uri

import plugin

CN, OU = plugin.COMMON_NAME, plugin.ORGANIZATIONAL_UNIT


def connection(subject=(), names=(), chain=None, client_id="", serial=b"\x01"):
    attributes = [SimpleNamespace(oid=oid, text=text) for oid, text in subject]
    leaf = SimpleNamespace(
        version=3,
        serial=serial,
        subject=SimpleNamespace(attributes=attributes),
        subject_alt_names=list(names),
        is_ca=False,
    )
    certificate = SimpleNamespace(leaf=leaf, chain=chain or ChainStatus_Verified(None))
    connect = SimpleNamespace(client_id=client_id, protocol_level=5)
    return SimpleNamespace(certificate=certificate, connect=connect)


def says(**facts):
    """The device id, the detail of the refusal, or `abstain`."""
    answer = plugin.Authenticator().authenticate(connection(**facts))
    if isinstance(answer, Authentication_Accept):
        return f"accept {answer.value.identity.device_id}"
    if isinstance(answer, Authentication_Abstain):
        return "abstain"
    return answer.value.audit_detail


class CertCore(unittest.TestCase):
    def test_the_first_field_that_has_a_value_decides(self):
        subject, foreign = [(CN, "by-name")], GeneralName_Uri("https://x")
        self.assertEqual(says(subject=subject, names=[foreign]), "accept by-name")
        names = [foreign, GeneralName_Uri("urn:device:a/b")]
        self.assertEqual(says(subject=subject, names=names), "san.uri of the certificate holds /")
        self.assertEqual(says(serial=b"\x0a\xff"), "accept 0aff")

    def test_text_is_counted_in_bytes_and_read_strictly(self):
        self.assertEqual(says(subject=[(CN, "é" * 128)]), "accept " + "é" * 128)
        self.assertEqual(says(subject=[(CN, "é" * 129)]), "cn of the certificate is longer than 256 bytes")
        self.assertEqual(says(subject=[(CN, None)]), "cn of the certificate is not plain text")
        self.assertEqual(says(subject=[(CN, "a\0b")]), "cn of the certificate is not plain text")
        self.assertEqual(says(subject=[(CN, "a"), (CN, "a")]), "the certificate has 2 values for cn")

    def test_an_unverified_certificate_says_nothing(self):
        forged = {"subject": [(CN, "d")], "chain": ChainStatus_Unverified("unknown issuer")}
        self.assertEqual(says(**forged), "abstain")
        who = SimpleNamespace(device_id="d")
        answer = plugin.Authorizer().authorize(connection(**forged), who)
        self.assertIsInstance(answer, Authorization_Abstain)

    def test_a_device_has_its_own_sessions_and_topics(self):
        a = [(CN, "a"), (OU, "g")]
        self.assertEqual(says(subject=a, client_id="a:b"), "accept a")
        self.assertEqual(says(subject=a, client_id="ab"), "the client id does not belong to the device")
        answer = plugin.Authorizer().authorize(connection(subject=a), SimpleNamespace(device_id="a"))
        filters = [rule.filter for rule in answer.value.acl.value]
        self.assertEqual(filters, ["devices/${device-id}/#", "groups/g/#"])

    def test_there_are_no_settings(self):
        plugin.Lifecycle().init(SimpleNamespace(config=" { } "))
        for config in ["", "[]", "null", '{"a": 1}', "{}x"]:
            with self.assertRaises(Err, msg=config):
                plugin.Lifecycle().init(SimpleNamespace(config=config))


if __name__ == "__main__":
    unittest.main()
