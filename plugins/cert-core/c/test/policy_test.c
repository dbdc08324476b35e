/* `mqgate plugin test --native plugins/cert-core/c` runs these. What the certificates of the corpus say is another test's. */

#include <mqgate_test.h>

#include <stdio.h>

/* Adds an attribute to the subject. */
static void subject(mqgate_plugin_connections_connection_t *on, const char *oid, const char *text) {
  mqgate_plugin_certificates_list_name_attribute_t *list = &on->certificate.val.leaf.subject.attributes;
  list->ptr = realloc(list->ptr, (list->len + 1) * sizeof *list->ptr);
  if (list->ptr == NULL) abort();
  list->ptr[list->len++] = (mqgate_plugin_certificates_name_attribute_t){
      .oid = mqgate_text(oid),
      .text = {text != NULL, text == NULL ? (plugin_string_t){0} : mqgate_text(text)},
  };
}

/* Adds an alternative name: DNS or URI. */
static void alternative(mqgate_plugin_connections_connection_t *on, uint8_t kind, const char *text) {
  mqgate_plugin_certificates_list_general_name_t *list = &on->certificate.val.leaf.subject_alt_names;
  list->ptr = realloc(list->ptr, (list->len + 1) * sizeof *list->ptr);
  if (list->ptr == NULL) abort();
  list->ptr[list->len] = (mqgate_plugin_certificates_general_name_t){.tag = kind};
  list->ptr[list->len++].val.dns = mqgate_text(text);
}

/* A device that leaves its client id to the broker. */
static mqgate_plugin_connections_connection_t device(const char *common_name) {
  mqgate_plugin_connections_connection_t on = mqgate_test_device(common_name);
  on.connect.client_id.len = 0;
  return on;
}

/* Whether the authenticator answers so: `accept NAME`, the detail of a refusal, or `abstain`. It takes the connection over. */
static bool says(mqgate_plugin_connections_connection_t on, const char *expected) {
  exports_mqgate_plugin_authenticator_authentication_t answer;
  exports_mqgate_plugin_authenticator_hook_error_t error;
  char text[512] = "abstain";
  CHECK(exports_mqgate_plugin_authenticator_authenticate(&on, &answer, &error));
  if (answer.tag == EXPORTS_MQGATE_PLUGIN_AUTHENTICATOR_AUTHENTICATION_ACCEPT) {
    plugin_string_t id = answer.val.accept.identity.device_id;
    snprintf(text, sizeof text, "accept %.*s", (int)id.len, (const char *)id.ptr);
  } else if (answer.tag == EXPORTS_MQGATE_PLUGIN_AUTHENTICATOR_AUTHENTICATION_DENY) {
    plugin_string_t detail = answer.val.deny.audit_detail.val;
    snprintf(text, sizeof text, "%.*s", (int)detail.len, (const char *)detail.ptr);
  }
  if (strcmp(text, expected) != 0) printf("        it says: %s\n", text);
  return strcmp(text, expected) == 0;
}

TEST(the_first_field_that_has_a_value_decides) {
  mqgate_plugin_connections_connection_t on = device("by-name");
  alternative(&on, MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_URI, "https://x");
  CHECK(says(on, "accept by-name"));

  on = device("by-name");
  alternative(&on, MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_URI, "urn:device:a/b");
  CHECK(says(on, "san.uri of the certificate holds /"));

  on = device(NULL);
  alternative(&on, MQGATE_PLUGIN_CERTIFICATES_GENERAL_NAME_DNS, "by-host");
  CHECK(says(on, "accept by-host"));

  CHECK(says(device(NULL), "accept 01"));
}

TEST(text_is_counted_in_bytes_and_read_strictly) {
  char name[259] = "";
  while (strlen(name) < 256) strcat(name, "\xc3\xa9");
  char accepted[300] = "accept ";
  CHECK(says(device(name), strcat(accepted, name)));
  strcat(name, "\xc3\xa9");
  CHECK(says(device(name), "cn of the certificate is longer than 256 bytes"));
  CHECK(says(device("a\xe2\x80\xae" "b"), "cn of the certificate holds a control or invisible character"));
  CHECK(says(device("a\nb"), "cn of the certificate is not plain text"));

  mqgate_plugin_connections_connection_t on = device("a");
  subject(&on, "2.5.4.3", "a");
  CHECK(says(on, "the certificate has 2 values for cn"));
  on = device("a");
  subject(&on, "2.5.4.3", NULL);
  CHECK(says(on, "cn of the certificate is not plain text"));
}

TEST(an_unverified_certificate_says_nothing) {
  mqgate_plugin_connections_connection_t on = device("d");
  on.certificate.val.chain.tag = MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_UNVERIFIED;
  on.certificate.val.chain.val.unverified = mqgate_text("unknown issuer");
  CHECK(says(on, "abstain"));
  on = device("d");
  on.certificate.is_some = false;
  CHECK(says(on, "abstain"));
}

TEST(a_device_has_its_own_sessions_and_topics) {
  mqgate_plugin_connections_connection_t on = device("a");
  on.connect.client_id = mqgate_text("a:b");
  CHECK(says(on, "accept a"));
  on = device("a");
  on.connect.client_id = mqgate_text("ab");
  CHECK(says(on, "the client id does not belong to the device"));

  on = device("a");
  subject(&on, "2.5.4.11", "g");
  mqgate_plugin_types_identity_t who = mqgate_identity(mqgate_text("a"));
  exports_mqgate_plugin_authorizer_authorization_t answer;
  exports_mqgate_plugin_authorizer_hook_error_t error;
  CHECK(exports_mqgate_plugin_authorizer_authorize(&on, &who, &answer, &error));
  CHECK(answer.tag == EXPORTS_MQGATE_PLUGIN_AUTHORIZER_AUTHORIZATION_ALLOW);
  exports_mqgate_plugin_authorizer_list_acl_rule_t rules = answer.val.allow.acl.val.inline_;
  CHECK(rules.len == 2);
  CHECK(mqgate_is(rules.ptr[0].filter, "devices/${device-id}/#"));
  CHECK(mqgate_is(rules.ptr[1].filter, "groups/g/#"));
  CHECK(answer.val.allow.assigned_client_id.is_some && mqgate_is(answer.val.allow.assigned_client_id.val, "a"));
}

TEST(there_are_no_settings) {
  const char *none[] = {"{}", " { }\n"}, *some[] = {"", "[]", "null", "{\"a\": 1}", "{}x"};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) CHECK(mqgate_test_init(none[i]));
  for (size_t i = 0; i < sizeof some / sizeof *some; i++) CHECK(!mqgate_test_init(some[i]));
}
