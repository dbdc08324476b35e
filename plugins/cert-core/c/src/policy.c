#include "policy.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define URI_PREFIX "urn:device:"
#define LONGEST_VALUE 256

const char *const FIELD_NAMES[] = {"san.uri", "cn", "san.dns", "serial-number", "serial", "o", "ou"};

static const char *const SUBJECT_OIDS[] = {[CN] = "2.5.4.3", [SERIAL_NUMBER] = "2.5.4.5", [O] = "2.5.4.10", [OU] = "2.5.4.11"};

/* What was found so far: how many values, and the last of them, which is not a copy. */
struct values {
  size_t count;
  plugin_string_t last;
};

/* Appends `part` to the detail of a refusal. */
static void say(struct refusal *no, const char *part) {
  size_t used = strlen(no->detail);
  strncpy(no->detail + used, part, sizeof no->detail - used - 1);
}

static struct refusal refusal(void) {
  return (struct refusal){.reason = MQGATE_PLUGIN_TYPES_CONNACK_REASON_NOT_AUTHORIZED, .detail = ""};
}

static bool refuse(struct refusal *no, const char *detail) {
  *no = refusal();
  say(no, detail);
  return false;
}

static bool equals(const plugin_string_t *text, const char *other) {
  return text->len == strlen(other) && memcmp(text->ptr, other, text->len) == 0;
}

static bool begins_with(const plugin_string_t *text, const uint8_t *prefix, size_t length) {
  return text->len >= length && memcmp(text->ptr, prefix, length) == 0;
}

/* The next character of valid UTF-8, which is all that the ABI hands over. */
static uint32_t next_character(const plugin_string_t *text, size_t *at) {
  uint8_t first = text->ptr[(*at)++];
  int more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
  uint32_t character = more == 0 ? first : first & (0x3f >> more);
  while (more-- > 0) character = character << 6 | (text->ptr[(*at)++] & 0x3f);
  return character;
}

static bool is_control(uint32_t c) { return c <= 0x1f || (c >= 0x7f && c <= 0x9f); }

static bool is_invisible(uint32_t c) {
  return is_control(c) || c == 0xad || c == 0x61c || c == 0x180e || (c >= 0x200b && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb);
}

static bool holds(const plugin_string_t *text, bool (*is)(uint32_t)) {
  for (size_t at = 0; at < text->len;)
    if (is(next_character(text, &at))) return true;
  return false;
}

/* Says after `subject` why a text is no plain level of a topic; true if it is one. */
static bool is_plain(const plugin_string_t *text, const char *subject, struct refusal *no) {
  const char *why = NULL;
  char special[] = "holds ?";
  if (text->len == 0) {
    why = "is empty";
  } else if (text->len > LONGEST_VALUE) {
    why = "is longer than 256 bytes";
  } else {
    for (size_t at = 0; at < text->len && why == NULL; at++) {
      if (text->ptr[at] == 0 || strchr("/+#$", text->ptr[at]) == NULL) continue;
      special[sizeof special - 2] = (char)text->ptr[at];
      why = special;
    }
    if (why == NULL && holds(text, is_invisible)) why = "holds a control or invisible character";
  }
  if (why == NULL) return true;
  *no = refusal();
  say(no, subject);
  say(no, " ");
  return say(no, why), false;
}

/* Counts a value, if it is text without controls: the broker promises that, and who decides on it looks once more. */
static bool count(struct values *values, const plugin_string_t *text) {
  if (text == NULL || holds(text, is_control)) return false;
  values->count++;
  values->last = *text;
  return true;
}

static bool subject_values(const mqgate_plugin_certificates_certificate_t *leaf, const char *oid, struct values *values) {
  for (size_t at = 0; at < leaf->subject.attributes.len; at++) {
    const mqgate_plugin_certificates_name_attribute_t *attribute = &leaf->subject.attributes.ptr[at];
    if (!equals(&attribute->oid, oid)) continue;
    if (!count(values, attribute->text.is_some ? &attribute->text.val : NULL)) return false;
  }
  return true;
}

/* Of one kind of alternative names; a malformed one could be of any kind, so it spoils every kind. */
static bool alternative_names(const mqgate_plugin_certificates_certificate_t *leaf, uint8_t kind, struct values *values) {
  for (size_t at = 0; at < leaf->subject_alt_names.len; at++) {
    const mqgate_plugin_certificates_general_name_t *name = &leaf->subject_alt_names.ptr[at];
    if (name->tag == MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_MALFORMED) return false;
    if (name->tag != kind) continue;
    if (kind == MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_DNS) {
      if (!count(values, &name->val.dns)) return false;
      continue;
    }
    plugin_string_t uri = name->val.uri;
    const size_t prefix = strlen(URI_PREFIX);
    if (begins_with(&uri, (const uint8_t *)URI_PREFIX, prefix)) {
      uri.ptr += prefix;
      uri.len -= prefix;
      if (!count(values, &uri)) return false;
    } else if (holds(&uri, is_control)) {
      return false;
    }
  }
  return true;
}

static void copy(plugin_string_t *to, const plugin_string_t *from) {
  plugin_string_dup_n(to, (const char *)from->ptr, from->len);
}

static void hexadecimal(const plugin_list_u8_t *bytes, plugin_string_t *to) {
  to->len = bytes->len * 2;
  to->ptr = to->len > 0 ? malloc(to->len) : NULL;
  if (to->len > 0 && to->ptr == NULL) abort();
  for (size_t at = 0; at < bytes->len; at++) {
    to->ptr[at * 2] = (uint8_t)"0123456789abcdef"[bytes->ptr[at] >> 4];
    to->ptr[at * 2 + 1] = (uint8_t)"0123456789abcdef"[bytes->ptr[at] & 15];
  }
}

static enum found several(enum field field, size_t count, struct refusal *no) {
  char digits[24];
  char *at = digits + sizeof digits - 1;
  for (*at = '\0'; count > 0; count /= 10) *--at = (char)('0' + count % 10);
  *no = refusal();
  say(no, "the certificate has ");
  say(no, at);
  say(no, " values for ");
  say(no, FIELD_NAMES[field]);
  return REFUSED;
}

enum found one_value(enum field field, const mqgate_plugin_certificates_certificate_t *leaf, plugin_string_t *value,
                     struct refusal *no) {
  char of_the_certificate[64] = "";
  strcat(strcat(of_the_certificate, FIELD_NAMES[field]), " of the certificate");

  if (field == SERIAL) {
    hexadecimal(&leaf->serial, value);
    if (is_plain(value, of_the_certificate, no)) return ONE;
    plugin_string_free(value);
    return REFUSED;
  }

  struct values values = {0};
  bool is_readable = field == SAN_URI   ? alternative_names(leaf, MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_URI, &values)
                     : field == SAN_DNS ? alternative_names(leaf, MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_DNS, &values)
                                        : subject_values(leaf, SUBJECT_OIDS[field], &values);
  if (!is_readable) {
    *no = refusal();
    say(no, of_the_certificate);
    say(no, " is not plain text");
    return REFUSED;
  }
  if (values.count == 0) return NONE;
  if (values.count > 1) return several(field, values.count, no);
  if (!is_plain(&values.last, of_the_certificate, no)) return REFUSED;
  copy(value, &values.last);
  return ONE;
}

bool may_open(const plugin_string_t *device_id, const plugin_string_t *client_id, struct refusal *no) {
  if (!is_plain(device_id, "the device id", no)) return false;
  /* Otherwise `a` could take the sessions of `a:b`. */
  if (memchr(device_id->ptr, ':', device_id->len) != NULL) return refuse(no, "the device id holds :");
  if (client_id->len == 0) return true;
  if (begins_with(client_id, device_id->ptr, device_id->len) &&
      (client_id->len == device_id->len || client_id->ptr[device_id->len] == ':'))
    return true;
  refuse(no, "the client id does not belong to the device");
  no->reason = MQGATE_PLUGIN_TYPES_CONNACK_REASON_CLIENT_IDENTIFIER_NOT_VALID;
  return false;
}
