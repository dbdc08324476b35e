/* The words of ../../README.md: values of a certificate, and what is wrong with them. Knows nothing of hooks and answers. */

#ifndef POLICY_H
#define POLICY_H

#include "plugin.h"

enum field { SAN_URI, CN, SAN_DNS, SERIAL_NUMBER, SERIAL, O, OU };

extern const char *const FIELD_NAMES[];

/* Why the answer is no. The longest text is "the certificate has N values for serial-number". */
struct refusal {
  mqgate_plugin_types_connack_reason_t reason;
  char detail[128];
};

enum found { NONE, ONE, REFUSED };

/*
 * The value of a field that must not be ambiguous, fit to be a name and a topic level. With ONE, `value` is a copy that
 * the caller frees; with REFUSED, `no` says why.
 */
enum found one_value(enum field field, const mqgate_plugin_certificates_certificate_t *leaf, plugin_string_t *value,
                     struct refusal *no);

/* Whether a device may open a session with this client id; if not, `no` says why. */
bool may_open(const plugin_string_t *device_id, const plugin_string_t *client_id, struct refusal *no);

#endif
