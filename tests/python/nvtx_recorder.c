/* An NVTX tool for tests: what NVTX_INJECTION64_PATH names is loaded by the header's first call,
   and gets every range and mark. Appends a line for each to the file in NVTX_RECORD: process, thread,
   what, domain, name, payload, category, range (nvtx_tool.py reads them). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char* categories[16]; /* by their numbers */

static void record(const char* what, nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event,
                   unsigned long long range) {
  char line[256];
  /* Registered strings are strings here, too. */
  const char* name = event ? event->message.ascii : "-";
  unsigned long long payload = event ? (unsigned long long)event->payload.ullValue : 0;
  const char* category = event && event->category < 16 ? categories[event->category] : NULL;
  int length =
      snprintf(line, sizeof line, "%d %d %s %s %s %llu %s %llu\n", (int)getpid(), (int)gettid(),
               what, (const char*)domain, name, payload, category ? category : "-", range);
  int fd = open(getenv("NVTX_RECORD"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, line, (size_t)length) != length) abort();
  close(fd);
}

static nvtxDomainHandle_t create(const char* name) { return (nvtxDomainHandle_t)strdup(name); }
static void name_category(nvtxDomainHandle_t domain, uint32_t number, const char* name) {
  (void)domain;
  if (number < 16) categories[number] = strdup(name);
}
static nvtxStringHandle_t enrol(nvtxDomainHandle_t domain, const char* name) {
  (void)domain;
  return (nvtxStringHandle_t)strdup(name);
}
static void mark(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  record("mark", domain, event, 0);
}
static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  record("push", domain, event, 0);
  return 0;
}
static int pop(nvtxDomainHandle_t domain) {
  record("pop", domain, NULL, 0);
  return 0;
}
static nvtxRangeId_t start(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  static nvtxRangeId_t last;
  nvtxRangeId_t range = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
  record("start", domain, event, range);
  return range;
}
static void end(nvtxDomainHandle_t domain, nvtxRangeId_t range) {
  record("end", domain, NULL, range);
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(
    NvtxGetExportTableFunc_t get_table) {
  const NvtxExportTableCallbacks* callbacks =
      (const NvtxExportTableCallbacks*)get_table(NVTX_ETID_CALLBACKS);
  NvtxFunctionTable table = NULL;
  unsigned int size = 0;
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size))
    return 0;
  *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create;
  *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)enrol;
  *table[NVTX_CBID_CORE2_DomainNameCategoryA] = (NvtxFunctionPointer)name_category;
  *table[NVTX_CBID_CORE2_DomainMarkEx] = (NvtxFunctionPointer)mark;
  *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
  *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
  *table[NVTX_CBID_CORE2_DomainRangeStartEx] = (NvtxFunctionPointer)start;
  *table[NVTX_CBID_CORE2_DomainRangeEnd] = (NvtxFunctionPointer)end;
  return 1;
}
