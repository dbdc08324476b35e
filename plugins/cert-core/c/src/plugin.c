/*
 * Which device a client certificate belongs to, and what it may do. ../../README.md is the specification.
 *
 * What a hook is handed belongs to it and is freed at its end; what it returns is freed by the generated code, so every
 * text of an answer is a copy of its own.
 */

#include "plugin.h"

#include <stdlib.h>
#include <string.h>

#include "policy.h"

/* Where a device id is looked for. A serial number every certificate has. */
static const enum field NAMES[] = {SAN_URI, CN, SAN_DNS, SERIAL_NUMBER, SERIAL};

/* Without memory there is no answer: the broker takes a trap for a failure, and that is a refusal. */
static void *allocate(size_t size) {
  void *memory = calloc(1, size);
  if (memory == NULL) abort();
  return memory;
}

static mqgate_plugin_types_list_attribute_t one_attribute(const char *name, const char *value) {
  mqgate_plugin_types_attribute_t *attribute = allocate(sizeof *attribute);
  plugin_string_dup(&attribute->name, name);
  attribute->value.tag = MQGATE_PLUGIN_TYPES_VALUE_TEXT;
  plugin_string_dup(&attribute->value.val.text, value);
  return (mqgate_plugin_types_list_attribute_t){attribute, 1};
}

static mqgate_plugin_types_denial_t denial(const struct refusal *no) {
  mqgate_plugin_types_denial_t denial = {.reason = no->reason, .audit_detail.is_some = true};
  plugin_string_dup(&denial.audit_detail.val, no->detail);
  return denial;
}

/* The certificate, if a trust anchor vouches for what it says. */
static const mqgate_plugin_certificates_certificate_t *trusted(const mqgate_plugin_connections_connection_t *on) {
  const mqgate_plugin_connections_option_client_certificate_t *certificate = &on->certificate;
  if (!certificate->is_some) return NULL;
  if (certificate->val.chain.tag != MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_VERIFIED) return NULL;
  return &certificate->val.leaf;
}

bool exports_mqgate_plugin_lifecycle_init(exports_mqgate_plugin_lifecycle_plugin_context_t *context,
                                          exports_mqgate_plugin_lifecycle_init_error_t *err) {
  /* The broker hands over JSON; what is left of an empty object without blanks is a pair of braces. */
  char kept[3] = "";
  size_t length = 0;
  for (size_t at = 0; at < context->config.len && length < sizeof kept; at++) {
    char c = (char)context->config.ptr[at];
    if (c == '\0' || strchr(" \t\r\n", c) == NULL) kept[length++] = c;
  }
  bool is_empty_object = length == 2 && memcmp(kept, "{}", 2) == 0;
  exports_mqgate_plugin_lifecycle_plugin_context_free(context);
  if (is_empty_object) return true;

  exports_mqgate_plugin_lifecycle_config_problem_t *problem = allocate(sizeof *problem);
  plugin_string_dup(&problem->at, "");
  plugin_string_dup(&problem->message, "cert-core has no settings");
  err->tag = EXPORTS_MQGATE_PLUGIN_LIFECYCLE_INIT_ERROR_INVALID_CONFIG;
  err->val.invalid_config.ptr = problem;
  err->val.invalid_config.len = 1;
  return false;
}

/* A field that cannot be used ends the search: a certificate must not choose by which of its names it is known. */
static bool identify(const mqgate_plugin_connections_connection_t *on, const mqgate_plugin_certificates_certificate_t *leaf,
                     mqgate_plugin_types_identity_t *who, struct refusal *no) {
  if (leaf->is_ca) {
    *no = (struct refusal){MQGATE_PLUGIN_TYPES_CONNACK_REASON_NOT_AUTHORIZED, "the certificate is that of a CA"};
    return false;
  }
  const enum field *source = NAMES;
  enum found found = NONE;
  while (found == NONE) found = one_value(*source++, leaf, &who->device_id, no);
  if (found == REFUSED) return false;
  found = one_value(O, leaf, &who->tenant.val, no);
  who->tenant.is_some = found == ONE;
  if (found == REFUSED || !may_open(&who->device_id, &on->connect.client_id, no)) return false;

  char tag[] = "x509-v\0\0\0";
  char *end = tag + strlen(tag);
  if (leaf->version >= 100) *end++ = (char)('0' + leaf->version / 100);
  if (leaf->version >= 10) *end++ = (char)('0' + leaf->version / 10 % 10);
  *end = (char)('0' + leaf->version % 10);
  who->tags = (plugin_list_string_t){allocate(sizeof *who->tags.ptr), 1};
  plugin_string_dup(who->tags.ptr, tag);
  who->attributes = one_attribute("cert.source", FIELD_NAMES[source[-1]]);
  return true;
}

bool exports_mqgate_plugin_authenticator_authenticate(exports_mqgate_plugin_authenticator_connection_t *on,
                                                      exports_mqgate_plugin_authenticator_authentication_t *ret,
                                                      exports_mqgate_plugin_authenticator_hook_error_t *err) {
  (void)err;
  const mqgate_plugin_certificates_certificate_t *leaf = trusted(on);
  struct refusal no;
  memset(ret, 0, sizeof *ret);
  if (leaf == NULL) {
    ret->tag = EXPORTS_MQGATE_PLUGIN_AUTHENTICATOR_AUTHENTICATION_ABSTAIN;
  } else if (identify(on, leaf, &ret->val.accept.identity, &no)) {
    ret->tag = EXPORTS_MQGATE_PLUGIN_AUTHENTICATOR_AUTHENTICATION_ACCEPT;
  } else {
    mqgate_plugin_types_identity_free(&ret->val.accept.identity);
    memset(ret, 0, sizeof *ret);
    ret->tag = EXPORTS_MQGATE_PLUGIN_AUTHENTICATOR_AUTHENTICATION_DENY;
    ret->val.deny = denial(&no);
  }
  exports_mqgate_plugin_authenticator_connection_free(on);
  return true;
}

static void allow(exports_mqgate_plugin_authorizer_acl_rule_t *rule, uint8_t actions, const char *before,
                  const plugin_string_t *level) {
  static const char AFTER[] = "/#";
  size_t head = strlen(before), middle = level == NULL ? 0 : level->len, tail = strlen(AFTER);
  rule->effect = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_EFFECT_ALLOW;
  rule->actions = actions;
  rule->qos = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_QOS_LEVELS_AT_MOST_ONCE |
              EXPORTS_MQGATE_PLUGIN_AUTHORIZER_QOS_LEVELS_AT_LEAST_ONCE |
              EXPORTS_MQGATE_PLUGIN_AUTHORIZER_QOS_LEVELS_EXACTLY_ONCE;
  rule->retain = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_RETAIN_MATCH_ANY;
  rule->filter.len = head + middle + tail;
  rule->filter.ptr = allocate(rule->filter.len);
  memcpy(rule->filter.ptr, before, head);
  if (middle > 0) memcpy(rule->filter.ptr + head, level->ptr, middle);
  memcpy(rule->filter.ptr + head + middle, AFTER, tail);
}

static bool authorize(const mqgate_plugin_connections_connection_t *on, const mqgate_plugin_certificates_certificate_t *leaf,
                      const plugin_string_t *device_id, exports_mqgate_plugin_authorizer_grant_t *grant,
                      struct refusal *no) {
  const uint8_t publish = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_ACTIONS_PUBLISH;
  const uint8_t subscribe = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_ACTIONS_SUBSCRIBE;
  if (!may_open(device_id, &on->connect.client_id, no)) return false;
  plugin_string_t group;
  enum found found = one_value(OU, leaf, &group, no);
  if (found == REFUSED) return false;

  exports_mqgate_plugin_authorizer_list_acl_rule_t *rules = &grant->acl.val.inline_;
  grant->acl.tag = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_ACL_INLINE;
  rules->len = found == ONE ? 2 : 1;
  rules->ptr = allocate(rules->len * sizeof *rules->ptr);
  allow(&rules->ptr[0], publish | subscribe, "devices/${device-id}", NULL);
  if (found == ONE) {
    allow(&rules->ptr[1], subscribe, "groups/", &group);
    plugin_string_free(&group);
  }
  grant->otherwise = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_EFFECT_DENY;
  grant->limits.subscriptions = (plugin_option_u32_t){true, 100};
  grant->limits.maximum_qos = (plugin_option_u8_t){on->connect.protocol_level == 3, 1};
  if (on->connect.client_id.len == 0) {
    grant->assigned_client_id.is_some = true;
    plugin_string_dup_n(&grant->assigned_client_id.val, (const char *)device_id->ptr, device_id->len);
  }
  mqgate_plugin_types_list_attribute_t attributes = one_attribute("policy.rule", "own-topics");
  grant->attributes.ptr = attributes.ptr;
  grant->attributes.len = attributes.len;
  return true;
}

bool exports_mqgate_plugin_authorizer_authorize(exports_mqgate_plugin_authorizer_connection_t *on,
                                                exports_mqgate_plugin_authorizer_identity_t *who,
                                                exports_mqgate_plugin_authorizer_authorization_t *ret,
                                                exports_mqgate_plugin_authorizer_hook_error_t *err) {
  (void)err;
  const mqgate_plugin_certificates_certificate_t *leaf = trusted(on);
  struct refusal no;
  memset(ret, 0, sizeof *ret);
  if (leaf == NULL) {
    ret->tag = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_AUTHORIZATION_ABSTAIN;
  } else if (authorize(on, leaf, &who->device_id, &ret->val.allow, &no)) {
    ret->tag = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_AUTHORIZATION_ALLOW;
  } else {
    ret->tag = EXPORTS_MQGATE_PLUGIN_AUTHORIZER_AUTHORIZATION_DENY;
    ret->val.deny = denial(&no);
  }
  exports_mqgate_plugin_authorizer_connection_free(on);
  exports_mqgate_plugin_authorizer_identity_free(who);
  return true;
}
