// mqgate.h: what every plugin in C needs: texts, answers, the configuration. Beside plugin.h, which is generated from
// the project's world.
//
// What a hook answers is freed by the generated code, so all of it comes from malloc: make texts with mqgate_text. What a
// hook is given is the hook's; an instance lives for few calls, and not freeing it is not a leak that lasts.
#ifndef MQGATE_H
#define MQGATE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

// ---- texts ----------------------------------------------------------------------------------------------------

// A copy of a C string.
static inline plugin_string_t mqgate_text(const char *text) {
  plugin_string_t copy;
  plugin_string_dup(&copy, text);
  return copy;
}

static inline plugin_string_t mqgate_copy(plugin_string_t text) {
  plugin_string_t copy;
  plugin_string_dup_n(&copy, (const char *)text.ptr, text.len);
  return copy;
}

// Both, one after the other.
static inline plugin_string_t mqgate_join(plugin_string_t first, const char *second) {
  size_t length = strlen(second);
  uint8_t *both = malloc(first.len + length);
  if (both == NULL) abort();
  if (first.len > 0) memcpy(both, first.ptr, first.len);
  memcpy(both + first.len, second, length);
  return (plugin_string_t){both, first.len + length};
}

static inline bool mqgate_equal(plugin_string_t a, plugin_string_t b) {
  return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline bool mqgate_is(plugin_string_t text, const char *other) {
  size_t length = strlen(other);
  return text.len == length && (length == 0 || memcmp(text.ptr, other, length) == 0);
}

// ---- the configuration ----------------------------------------------------------------------------------------

// Reads JSON from the front. Every function returns false, and goes on returning it, once the text is not what was
// asked for.
typedef struct mqgate_json_t {
  const uint8_t *at, *end;
  bool wrong;
} mqgate_json_t;

static inline mqgate_json_t mqgate_json(plugin_string_t text) {
  return (mqgate_json_t){text.ptr, text.ptr + text.len, false};
}

static inline bool mqgate_json_wrong(mqgate_json_t *json) {
  json->wrong = true;
  return false;
}

// The next character that is not white space; 0 at the end.
static inline int mqgate_json_peek(mqgate_json_t *json) {
  while (json->at < json->end && (*json->at == ' ' || *json->at == '\n' || *json->at == '\t' || *json->at == '\r')) json->at++;
  return json->wrong || json->at == json->end ? 0 : *json->at;
}

static inline bool mqgate_json_take(mqgate_json_t *json, int character) {
  if (mqgate_json_peek(json) != character) return mqgate_json_wrong(json);
  json->at++;
  return true;
}

// Goes through the items of what `open` ('{' or '[') began: true as long as there is one more.
static inline bool mqgate_json_more(mqgate_json_t *json, int open, bool *first) {
  int close = open == '{' ? '}' : ']';
  if (*first && !mqgate_json_take(json, open)) return false;
  if (mqgate_json_peek(json) == close) {
    json->at++;
    return false;
  }
  bool comma = *first || mqgate_json_take(json, ',');
  *first = false;
  return comma && mqgate_json_peek(json) != close ? true : mqgate_json_wrong(json);
}

static inline bool mqgate_json_hex(mqgate_json_t *json, uint32_t *code) {
  *code = 0;
  for (int digit = 0; digit < 4; digit++) {
    int c = json->at < json->end ? *json->at++ : 0;
    int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (value < 0) return mqgate_json_wrong(json);
    *code = *code * 16 + (uint32_t)value;
  }
  return true;
}

// A text, with its escapes resolved.
static inline bool mqgate_json_text(mqgate_json_t *json, plugin_string_t *text) {
  if (!mqgate_json_take(json, '"')) return false;
  // Resolving makes nothing longer.
  uint8_t *out = malloc((size_t)(json->end - json->at) + 1);
  if (out == NULL) abort();
  size_t length = 0;
  while (json->at < json->end && *json->at != '"') {
    uint8_t c = *json->at++;
    if (c < 0x20) return mqgate_json_wrong(json);
    if (c != '\\') {
      out[length++] = c;
      continue;
    }
    c = json->at < json->end ? *json->at++ : 0;
    const char *known = "\"\"\\\\//b\bf\fn\nr\rt\t";
    uint32_t code = 0, low = 0;
    if (c == 'u') {
      if (!mqgate_json_hex(json, &code)) return false;
      if (code >= 0xd800 && code < 0xdc00) {
        bool pair = json->end - json->at > 2 && json->at[0] == '\\' && json->at[1] == 'u';
        json->at += pair ? 2 : 0;
        if (!pair || !mqgate_json_hex(json, &low) || low < 0xdc00 || low > 0xdfff) return mqgate_json_wrong(json);
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      } else if (code >= 0xdc00 && code < 0xe000) {
        return mqgate_json_wrong(json);
      }
    } else {
      while (*known != '\0' && (uint8_t)*known != c) known += 2;
      if (c == 0 || *known == '\0') return mqgate_json_wrong(json);
      code = (uint8_t)known[1];
    }
    if (code < 0x80) {
      out[length++] = (uint8_t)code;
    } else {
      int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      out[length++] = (uint8_t)((0xf00 >> more) | (code >> (6 * more)));
      while (more-- > 0) out[length++] = (uint8_t)(0x80 | ((code >> (6 * more)) & 0x3f));
    }
  }
  *text = (plugin_string_t){out, length};
  return mqgate_json_take(json, '"');
}

// The next name of an object; its value follows.
static inline bool mqgate_json_key(mqgate_json_t *json, bool *first, plugin_string_t *name) {
  return mqgate_json_more(json, '{', first) && mqgate_json_text(json, name) && mqgate_json_take(json, ':');
}

// Whether all of the text was read, and was right.
static inline bool mqgate_json_done(mqgate_json_t *json) {
  return !json->wrong && mqgate_json_peek(json) == 0 && json->at == json->end;
}

// The answer of `init` to a configuration that is wrong `at` this JSON pointer: `return mqgate_invalid(err, …)`.
static inline bool mqgate_invalid(exports_mqgate_plugin_lifecycle_init_error_t *err, const char *at, const char *message) {
  exports_mqgate_plugin_lifecycle_config_problem_t *problem = malloc(sizeof *problem);
  if (problem == NULL) abort();
  *problem = (exports_mqgate_plugin_lifecycle_config_problem_t){mqgate_text(at), mqgate_text(message)};
  err->tag = EXPORTS_MQGATE_PLUGIN_LIFECYCLE_INIT_ERROR_INVALID_CONFIG;
  err->val.invalid_config.ptr = problem;
  err->val.invalid_config.len = 1;
  return false;
}

// ---- certificates and answers, for the hooks that have them ------------------------------------------------------

// What an auditor is told has neither.
#ifdef MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_VERIFIED

// A refusal; the detail is for the audit log. It takes the text over.
static inline mqgate_plugin_types_denial_t mqgate_denial(mqgate_plugin_types_connack_reason_t reason, plugin_string_t detail) {
  mqgate_plugin_types_denial_t denial = {.reason = reason};
  denial.audit_detail.is_some = true;
  denial.audit_detail.val = detail;
  return denial;
}

// A device with this id and nothing else. It takes the text over.
static inline mqgate_plugin_types_identity_t mqgate_identity(plugin_string_t device_id) {
  return (mqgate_plugin_types_identity_t){.device_id = device_id};
}

// The certificate, if a trust anchor vouches for it.
static inline const mqgate_plugin_certificates_certificate_t *mqgate_trusted(const mqgate_plugin_connections_connection_t *on) {
  bool verified = on->certificate.is_some && on->certificate.val.chain.tag == MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_VERIFIED;
  return verified ? &on->certificate.val.leaf : NULL;
}

// The one value of an attribute of the subject, as text: "2.5.4.3" is the common name. False where there is none,
// several, or one that is no text.
static inline bool mqgate_subject(const mqgate_plugin_certificates_certificate_t *leaf, const char *oid, plugin_string_t *value) {
  size_t found = 0;
  for (size_t i = 0; i < leaf->subject.attributes.len; i++) {
    const mqgate_plugin_certificates_name_attribute_t *attribute = &leaf->subject.attributes.ptr[i];
    if (!mqgate_is(attribute->oid, oid)) continue;
    if (!attribute->text.is_some) return false;
    *value = attribute->text.val;
    found++;
  }
  return found == 1;
}

#endif
#endif
