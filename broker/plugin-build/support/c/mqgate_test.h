// mqgate_test.h: tests of a plugin in C, on this machine and without WebAssembly. `mqgate plugin test` compiles test/*.c
// together with src/*.c, and runs each test in a process of its own: it finds the plugin as a new instance is, and a crash is
// one test that failed.
//
// What the plugin calls of the broker is there to be defined by a test: `mqgate_plugin_key_value_get` with the signature of
// plugin.h, for example. The log alone is there already.
#ifndef MQGATE_TEST_H
#define MQGATE_TEST_H

#include <mqgate.h>

typedef struct mqgate_test_t {
  const char *name;
  void (*run)(void);
  struct mqgate_test_t *next;
} mqgate_test_t;

void mqgate_test_add(mqgate_test_t *test);
void mqgate_test_failed(const char *file, int line, const char *what);

// TEST(a_device_has_its_own_topics) { … }
#define TEST(test_name)                                                     \
  static void test_name(void);                                              \
  __attribute__((constructor)) static void mqgate_test_add_##test_name(void) { \
    static mqgate_test_t test = {#test_name, test_name, NULL};              \
    mqgate_test_add(&test);                                                 \
  }                                                                         \
  static void test_name(void)

// Ends the test unless it holds.
#define CHECK(...)                                                           \
  do {                                                                       \
    if (!(__VA_ARGS__)) mqgate_test_failed(__FILE__, __LINE__, #__VA_ARGS__); \
  } while (0)

// Calls `init` with this configuration. False where the plugin refuses it: `mqgate_test_init_error` has why then.
bool mqgate_test_init(const char *config);
extern exports_mqgate_plugin_lifecycle_init_error_t mqgate_test_init_error;

#ifdef MQGATE_PLUGIN_LOG_LEVEL_INFO
// What the plugin wrote to the log last, and at which level; nothing at first.
extern plugin_string_t mqgate_test_logged;
extern mqgate_plugin_log_level_t mqgate_test_logged_level;
#endif

#ifdef MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_VERIFIED
// An MQTT 5 connection with a certificate that a trust anchor vouches for, and this common name in its subject; with NULL
// the subject is empty. It is the test's to change.
mqgate_plugin_connections_connection_t mqgate_test_device(const char *common_name);
#endif

#endif
