// Which device a client certificate belongs to, and what it may do. ../../README.md is the specification.

const COMMON_NAME = '2.5.4.3';
const SERIAL_NUMBER = '2.5.4.5';
const ORGANIZATION = '2.5.4.10';
const ORGANIZATIONAL_UNIT = '2.5.4.11';

const URI_PREFIX = 'urn:device:';
const LONGEST_VALUE = 256;

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
const INVISIBLE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;

/** The answer is no; caught where a hook answers. */
class Refusal extends Error {
  constructor(detail, reason = 'not-authorized') {
    super(detail);
    this.denial = {
      reason,
      clientMessage: null,
      auditDetail: detail,
      serverReference: null,
      cache: null,
      attributes: [],
    };
  }
}

export const lifecycle = {
  init(context) {
    let settings = null;
    try {
      settings = JSON.parse(context.config);
    } catch {
      // No JSON is no empty object either.
    }
    const isEmptyObject =
      settings !== null &&
      typeof settings === 'object' &&
      !Array.isArray(settings) &&
      Object.keys(settings).length === 0;
    if (!isEmptyObject) {
      throw { tag: 'invalid-config', val: [{ at: '', message: 'cert-core has no settings' }] };
    }
  },
};

export const authenticator = {
  authenticate: (on) =>
    answer(on, (leaf) => ({ tag: 'accept', val: { identity: identify(on, leaf), cache: null } })),
};

export const authorizer = {
  authorize: (on, who) => answer(on, (leaf) => ({ tag: 'allow', val: grant(on, leaf, who.deviceId) })),
};

/** Asks `decide` about a certificate that a trust anchor vouches for; there is no opinion on any other. */
function answer(on, decide) {
  const certificate = on.certificate;
  if (certificate == null || certificate.chain.tag !== 'verified') return { tag: 'abstain' };
  try {
    return decide(certificate.leaf);
  } catch (error) {
    if (error instanceof Refusal) return { tag: 'deny', val: error.denial };
    throw error;
  }
}

function identify(on, leaf) {
  if (leaf.isCa) throw new Refusal('the certificate is that of a CA');
  const [source, deviceId] = deviceIdOf(leaf);
  const tenant = oneValue('o', leaf);
  checkSession(on, deviceId);
  return {
    deviceId,
    tenant,
    tags: [`x509-v${leaf.version}`],
    attributes: [text('cert.source', source)],
  };
}

/**
 * The field that names the device, and its name. A field that cannot be used ends the search: a certificate must not
 * choose by which of its names it is known.
 */
function deviceIdOf(leaf) {
  for (const field of ['san.uri', 'cn', 'san.dns', 'serial-number', 'serial']) {
    const value = oneValue(field, leaf);
    if (value !== null) return [field, value];
  }
  throw new Refusal('the certificate names no device');
}

/** The value of a field that must not be ambiguous, fit to be a name and a topic level; null where there is none. */
function oneValue(field, leaf) {
  const values = valuesOf[field](leaf, field);
  if (values.length === 0) return null;
  if (values.length > 1) throw new Refusal(`the certificate has ${values.length} values for ${field}`);
  const why = unfit(values[0]);
  if (why !== null) throw new Refusal(`${field} of the certificate ${why}`);
  return values[0];
}

const valuesOf = {
  'san.uri': (leaf, field) =>
    altNames(leaf, field, 'uri')
      .filter((uri) => uri.startsWith(URI_PREFIX))
      .map((uri) => uri.slice(URI_PREFIX.length)),
  'san.dns': (leaf, field) => altNames(leaf, field, 'dns'),
  cn: (leaf, field) => subject(leaf, field, COMMON_NAME),
  'serial-number': (leaf, field) => subject(leaf, field, SERIAL_NUMBER),
  o: (leaf, field) => subject(leaf, field, ORGANIZATION),
  ou: (leaf, field) => subject(leaf, field, ORGANIZATIONAL_UNIT),
  serial: (leaf) => [Array.from(leaf.serial, (byte) => byte.toString(16).padStart(2, '0')).join('')],
};

function subject(leaf, field, oid) {
  return leaf.subject.attributes
    .filter((attribute) => attribute.oid === oid)
    .map((attribute) => strict(attribute.text, field));
}

/** A malformed name could be of any kind, so it spoils every kind. */
function altNames(leaf, field, kind) {
  return leaf.subjectAltNames
    .filter((name) => name.tag === kind || name.tag === 'malformed')
    .map((name) => strict(name.tag === 'malformed' ? null : name.val, field));
}

/** The broker promises text without controls; who decides on it looks once more. */
function strict(value, field) {
  if (value == null || CONTROL.test(value)) throw new Refusal(`${field} of the certificate is not plain text`);
  return value;
}

/** Why a value is no plain level of a topic, or null. */
function unfit(value) {
  if (value === '') return 'is empty';
  if (utf8Length(value) > LONGEST_VALUE) return `is longer than ${LONGEST_VALUE} bytes`;
  const special = /[/+#$]/.exec(value);
  if (special) return `holds ${special[0]}`;
  if (INVISIBLE.test(value)) return 'holds a control or invisible character';
  return null;
}

function utf8Length(value) {
  let length = 0;
  for (const character of value) {
    const point = character.codePointAt(0);
    length += point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  }
  return length;
}

function checkSession(on, deviceId) {
  const why = unfit(deviceId);
  if (why !== null) throw new Refusal(`the device id ${why}`);
  // Otherwise `a` could take the sessions of `a:b`.
  if (deviceId.includes(':')) throw new Refusal('the device id holds :');
  const clientId = on.connect.clientId;
  if (clientId !== '' && clientId !== deviceId && !clientId.startsWith(`${deviceId}:`)) {
    throw new Refusal('the client id does not belong to the device', 'client-identifier-not-valid');
  }
}

function grant(on, leaf, deviceId) {
  checkSession(on, deviceId);
  const rules = [allow({ publish: true, subscribe: true }, 'devices/${device-id}/#')];
  const group = oneValue('ou', leaf);
  if (group !== null) rules.push(allow({ publish: false, subscribe: true }, `groups/${group}/#`));
  return {
    acl: { tag: 'inline', val: rules },
    otherwise: 'deny',
    limits: {
      maximumQos: on.connect.protocolLevel === 3 ? 1 : null,
      retainAvailable: null,
      maximumPacketSize: null,
      receiveMaximum: null,
      topicAliasMaximum: null,
      sessionExpiry: null,
      keepAlive: null,
      subscriptions: 100,
      publishesPerSecond: null,
      publishBytesPerSecond: null,
    },
    assignedClientId: on.connect.clientId === '' ? deviceId : null,
    validFor: null,
    cache: null,
    attributes: [text('policy.rule', 'own-topics')],
  };
}

function allow(actions, filter) {
  return {
    effect: 'allow',
    actions,
    filter,
    qos: { atMostOnce: true, atLeastOnce: true, exactlyOnce: true },
    retain: 'any',
  };
}

function text(name, value) {
  return { name, value: { tag: 'text', val: value } };
}
