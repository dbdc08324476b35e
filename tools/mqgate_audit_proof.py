#!/usr/bin/env python3
"""Checks that a record is in an mqgate audit log: `mqgate audit prove SEQ > proof.json`, then

    python3 mqgate_audit_proof.py proof.json --key "mqgate.audit/…+…+…"

The key is the log's public key (`mqgate audit keys`), or a file that has it; take it from somebody you trust, and never
from whoever hands you the proof. Needs nothing but Python 3.9 and its standard library. Ends with status 0 and prints
the record if everything holds, and with status 1 and the reason if not.

What is checked: the checkpoint is signed with the key (Ed25519, RFC 8032), it is about the log of the key, and the
record's hash leads through the proof's path to the root hash of the checkpoint (RFC 9162, section 2.1.3.2).
"""

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import sys

FORMAT = "mqgate-audit-proof-v1"
ED25519 = 1
LARGEST = 16 << 20


class Refused(Exception):
    """The proof does not hold."""


# Ed25519, verification only: nothing here is secret, so nothing has to take constant time.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if square == 0:
        return None if sign else 0
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_M1 % P
    if (x * x - square) % P:
        return None
    return P - x if x & 1 != sign else x


def decode_point(encoded):
    number = int.from_bytes(encoded, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(a, b):
    s, t = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    u, v = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = t - s, v - u, v + u, t + s
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = decode_point(BASE_Y.to_bytes(32, "little"))


def ed25519_holds(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = decode_point(public), decode_point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    left, right = multiply(s, BASE), add(r, multiply(k, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


# Signed notes and checkpoints (c2sp.org/signed-note, c2sp.org/tlog-checkpoint).


def from_base64(text, what):
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{what}: not base64") from None
    # One spelling only.
    if base64.b64encode(decoded).decode() != text:
        raise Refused(f"{what}: not base64")
    return decoded


def read_key(text):
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise Refused("the key is not of the form name+hash+base64")
    name, key_id, encoded = parts
    key = from_base64(encoded, "the key")
    if len(key) != 33 or key[0] != ED25519:
        raise Refused("the key is not an Ed25519 key")
    if hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() != key_id:
        raise Refused("the key does not have the hash that it says")
    return name, bytes.fromhex(key_id), key[1:]


def read_checkpoint(note, key):
    """The tree size and root hash of a checkpoint that the key has signed."""
    name, key_id, public = key
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    if not separator or not signatures.endswith("\n"):
        raise Refused("the checkpoint is not a signed note")
    signed = False
    for line in signatures[:-1].split("\n"):
        match = re.fullmatch(r"\u2014 (\S+) (\S+)", line)
        if not match:
            raise Refused("the checkpoint is not a signed note")
        blob = from_base64(match[2], "a signature")
        if match[1] == name and blob[:4] == key_id and not signed:
            if not ed25519_holds(public, text.encode(), blob[4:]):
                raise Refused("the signature of the checkpoint does not hold")
            signed = True
    if not signed:
        raise Refused("the checkpoint is not signed with this key")
    lines = text.split("\n")
    if len(lines) < 4 or not re.fullmatch(r"0|[1-9][0-9]*", lines[1]):
        raise Refused("the checkpoint has no tree size")
    if lines[0] != name:
        raise Refused("the checkpoint is of another log than the key")
    root = from_base64(lines[2], "the root hash")
    if len(root) != 32:
        raise Refused("the root hash does not have 32 bytes")
    return int(lines[1]), root


# The tree (RFC 9162).


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(index, size, leaf, path):
    if index >= size:
        raise Refused("the record would stand behind the end of the log")
    number, last, root = index, size - 1, leaf
    for step in path:
        if last == 0:
            raise Refused("the path is too long")
        if number & 1 or number == last:
            root = node(step, root)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            root = node(root, step)
        number >>= 1
        last >>= 1
    if last:
        raise Refused("the path is too short")
    return root


def check(proof, key):
    """Returns the record if the proof holds."""
    members = {"format": str, "record": str, "leaf_index": int, "tree_size": int, "path": list, "checkpoint": str}
    if not isinstance(proof, dict) or set(proof) != set(members):
        raise Refused("not a proof: it has other members")
    for name, kind in members.items():
        if type(proof[name]) is not kind:
            raise Refused(f"{name} is not of type {kind.__name__}")
    if proof["format"] != FORMAT:
        raise Refused(f"the format is not {FORMAT}")
    size, root = read_checkpoint(proof["checkpoint"], key)
    if size != proof["tree_size"]:
        raise Refused("the proof is about a tree of another size than the checkpoint")
    path = []
    for step in proof["path"]:
        if not isinstance(step, str) or not re.fullmatch(r"[0-9a-f]{64}", step):
            raise Refused("a hash of the path is not 64 hexadecimal digits")
        path.append(bytes.fromhex(step))
    index = proof["leaf_index"]
    if index < 0:
        raise Refused("the record would stand before the log")
    record = json.loads(proof["record"])
    if not isinstance(record, dict) or record.get("seq") != index + 1:
        raise Refused("the record says that it stands elsewhere")
    if f"mqgate.audit/{record.get('log')}" != key[0]:
        raise Refused("the record is of another log")
    leaf = hashlib.sha256(b"\x00" + proof["record"].encode()).digest()
    if root_of(index, size, leaf, path) != root:
        raise Refused("the hashes do not lead from the record to the root of the checkpoint")
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", help="the file, or - for standard input")
    parser.add_argument("--key", required=True, help="the log's public key, or a file that has it")
    arguments = parser.parse_args()
    try:
        key = arguments.key
        if os.path.exists(key):
            with open(key, encoding="utf-8") as file:
                key = file.readline()
        if arguments.proof == "-":
            text = sys.stdin.read(LARGEST + 1)
        else:
            with open(arguments.proof, encoding="utf-8") as file:
                text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise Refused("the proof is too large")
        record = check(json.loads(text), read_key(key))
    except (Refused, OSError, ValueError, RecursionError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
