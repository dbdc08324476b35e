// `node --test test/`: the plugin without a broker. Records and variants look as componentize-qjs makes them.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { authenticator, authorizer, lifecycle } from '../src/plugin.js';

const NAMES = { cn: '2.5.4.3', ou: '2.5.4.11' };

function connection({ subject = [], names = [], chain = { tag: 'verified' }, clientId = '', serial = [1] }) {
  const attributes = subject.map(([name, text]) => ({ oid: NAMES[name], text }));
  const leaf = {
    version: 3,
    serial: new Uint8Array(serial),
    subject: { attributes },
    subjectAltNames: names,
    isCa: false,
  };
  return { certificate: { leaf, chain }, connect: { clientId, protocolLevel: 5 } };
}

/** The device id, the detail of the refusal, or `abstain`. */
function says(facts) {
  const { tag, val } = authenticator.authenticate(connection(facts));
  return tag === 'accept' ? `accept ${val.identity.deviceId}` : (val?.auditDetail ?? tag);
}

test('the first field that has a value decides', () => {
  const subject = [['cn', 'by-name']];
  const foreign = { tag: 'uri', val: 'https://x' };
  assert.equal(says({ subject, names: [foreign] }), 'accept by-name');
  const names = [foreign, { tag: 'uri', val: 'urn:device:a/b' }];
  assert.equal(says({ subject, names }), 'san.uri of the certificate holds /');
  assert.equal(says({ serial: [0x0a, 0xff] }), 'accept 0aff');
});

test('text is counted in bytes and read strictly', () => {
  assert.equal(says({ subject: [['cn', 'é'.repeat(128)]] }), `accept ${'é'.repeat(128)}`);
  assert.equal(says({ subject: [['cn', 'é'.repeat(129)]] }), 'cn of the certificate is longer than 256 bytes');
  assert.equal(says({ subject: [['cn', null]] }), 'cn of the certificate is not plain text');
  assert.equal(says({ subject: [['cn', 'a\u0000b']] }), 'cn of the certificate is not plain text');
  assert.equal(says({ subject: [['cn', 'a\u202eb']] }), 'cn of the certificate holds a control or invisible character');
  assert.equal(says({ subject: [['cn', 'a'], ['cn', 'a']] }), 'the certificate has 2 values for cn');
});

test('an unverified certificate says nothing', () => {
  const forged = { subject: [['cn', 'd']], chain: { tag: 'unverified', val: 'unknown issuer' } };
  assert.equal(says(forged), 'abstain');
  assert.deepEqual(authorizer.authorize(connection(forged), { deviceId: 'd' }), { tag: 'abstain' });
  assert.deepEqual(authenticator.authenticate({ certificate: null }), { tag: 'abstain' });
});

test('a device has its own sessions and topics', () => {
  const a = { subject: [['cn', 'a'], ['ou', 'g']] };
  assert.equal(says({ ...a, clientId: 'a:b' }), 'accept a');
  assert.equal(says({ ...a, clientId: 'ab' }), 'the client id does not belong to the device');
  const { val } = authorizer.authorize(connection(a), { deviceId: 'a' });
  assert.deepEqual(val.acl.val.map((rule) => rule.filter), ['devices/${device-id}/#', 'groups/g/#']);
  assert.equal(val.assignedClientId, 'a');
});

test('there are no settings', () => {
  lifecycle.init({ config: ' { } ' });
  for (const config of ['', '[]', 'null', '{"a": 1}', '{}x']) {
    assert.throws(() => lifecycle.init({ config }), (error) => error.tag === 'invalid-config', config);
  }
});
