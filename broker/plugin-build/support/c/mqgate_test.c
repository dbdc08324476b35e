// The runner behind mqgate_test.h. Compiled with the project's tests; the plugin's component has nothing of it.
#define _POSIX_C_SOURCE 200809L

#include <mqgate_test.h>

#include <signal.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

// Longer than any test takes that ends.
enum { SECONDS = 60 };

static mqgate_test_t *first;
static mqgate_test_t **last = &first;

void mqgate_test_add(mqgate_test_t *test) {
  *last = test;
  last = &test->next;
}

void mqgate_test_failed(const char *file, int line, const char *what) {
  printf("        %s:%d: this does not hold: %s\n", file, line, what);
  fflush(stdout);
  _exit(1);
}

exports_mqgate_plugin_lifecycle_init_error_t mqgate_test_init_error;

bool mqgate_test_init(const char *config) {
  exports_mqgate_plugin_lifecycle_plugin_context_t context = {
      .name = mqgate_text("test"),
      .digest = mqgate_text("sha256:00"),
      .broker_version = mqgate_text("0.0.0"),
      .config = mqgate_text(config),
  };
  return exports_mqgate_plugin_lifecycle_init(&context, &mqgate_test_init_error);
}

#ifdef MQGATE_PLUGIN_LOG_LEVEL_INFO
plugin_string_t mqgate_test_logged;
mqgate_plugin_log_level_t mqgate_test_logged_level;

// What plugin.c calls: the broker's side of the log.
int32_t __wasm_import_mqgate_plugin_log_enabled(int32_t level);
void __wasm_import_mqgate_plugin_log_write(int32_t level, uint8_t *message, size_t length, uint8_t *fields, size_t count);

int32_t __wasm_import_mqgate_plugin_log_enabled(int32_t level) {
  (void)level;
  return 1;
}

void __wasm_import_mqgate_plugin_log_write(int32_t level, uint8_t *message, size_t length, uint8_t *fields, size_t count) {
  (void)fields, (void)count;
  plugin_string_dup_n(&mqgate_test_logged, (const char *)message, length);
  mqgate_test_logged_level = (mqgate_plugin_log_level_t)level;
}
#endif

#ifdef MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_VERIFIED
// From malloc, as all that the generated code hands over, so that a hook may free it.
static void *copy(const void *what, size_t size) {
  void *made = malloc(size);
  if (made == NULL) abort();
  return memcpy(made, what, size);
}

mqgate_plugin_connections_connection_t mqgate_test_device(const char *common_name) {
  mqgate_plugin_connections_connection_t on = {
      .id = 1,
      .trace_id = mqgate_text("0123456789abcdef0123456789abcdef"),
      .listener = mqgate_text("mqtts"),
      // The second of January 2026.
      .accepted_at = 1767312000000,
      .peer = {.address = mqgate_text("192.0.2.1"), .port = 50000},
      .certificate.is_some = true,
      .connect = {.protocol_level = 5, .client_id = mqgate_text("client"), .clean_start = true, .keep_alive = 60},
  };
  mqgate_plugin_certificates_client_certificate_t *certificate = &on.certificate.val;
  const uint8_t serial[] = {1}, fingerprint[32] = {0x11};
  certificate->leaf.version = 3;
  certificate->leaf.serial = (plugin_list_u8_t){copy(serial, sizeof serial), sizeof serial};
  certificate->leaf.fingerprint_sha256 = (plugin_list_u8_t){copy(fingerprint, sizeof fingerprint), sizeof fingerprint};
  // Thirty days from the first of January 2026.
  certificate->leaf.not_before = 1767225600;
  certificate->leaf.not_after = 1767225600 + 30 * 86400;
  certificate->chain.tag = MQGATE_PLUGIN_CERTIFICATES_CHAIN_STATUS_VERIFIED;
  certificate->chain.val.verified.name = mqgate_text("test-ca");
  if (common_name != NULL) {
    mqgate_plugin_certificates_name_attribute_t name = {
        .oid = mqgate_text("2.5.4.3"),
        .text = {true, mqgate_text(common_name)},
    };
    certificate->leaf.subject.attributes.ptr = copy(&name, sizeof name);
    certificate->leaf.subject.attributes.len = 1;
  }
  return on;
}
#endif

// The test's own process.
static void run(const mqgate_test_t *test) {
  alarm(SECONDS);
  test->run();
  fflush(stdout);
  _exit(0);
}

int main(void) {
  int count = 0, failed = 0;
  for (const mqgate_test_t *test = first; test != NULL; test = test->next, count++) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) run(test);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
      perror("fork");
      return 1;
    }
    if (WIFSIGNALED(status)) {
      int signal = WTERMSIG(status);
      printf(signal == SIGALRM ? "        it had not ended after %d seconds\n" : "        it was ended by signal %d\n",
             signal == SIGALRM ? SECONDS : signal);
    }
    bool passed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!passed) failed++;
    printf("%s %s\n", passed ? "ok     " : "FAILED ", test->name);
  }
  printf("%d tests, %d failed\n", count, failed);
  if (count == 0) printf("there is no TEST(…) in test/*.c\n");
  return failed == 0 && count > 0 ? 0 : 1;
}
