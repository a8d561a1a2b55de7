// Writes when every kernel and copy of a CUDA program ran, graph nodes included, as CSV: CUDA_INJECTION64_PATH=this library,
// GLIA_TRACE=file, GLIA_TRACE_LAST=how many records to keep (the last ones; 4000). Needs only the toolkit's CUPTI.
//   g++ -std=c++20 -O2 -shared -fPIC -I/usr/local/cuda/include tests/device/kernel_trace.cc -o kernel_trace.so -lcupti
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Record {
  uint64_t begin, end;
  uint32_t device, stream, graph;
  std::string name;
};
std::mutex mutex;
std::vector<Record> records;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most) {
  *size = 8 << 20;
  *buffer = static_cast<uint8_t*>(aligned_alloc(8, *size));
  *most = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(mutex);
  CUpti_Activity* r = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &r) == CUPTI_SUCCESS) {
    if (r->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* k = reinterpret_cast<const CUpti_ActivityKernel9*>(r);
      int status = 0;
      char* text = abi::__cxa_demangle(k->name, nullptr, nullptr, &status);
      std::string name = text ? text : k->name;
      std::replace(name.begin(), name.end(), '"', '\'');
      free(text);
      records.push_back({k->start, k->end, k->deviceId, k->streamId, k->graphId, name});
    } else if (r->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* m = reinterpret_cast<const CUpti_ActivityMemcpy5*>(r);
      records.push_back(
          {m->start, m->end, m->deviceId, m->streamId, m->graphId, "memcpy " + std::to_string(m->bytes)});
    } else if (r->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* m = reinterpret_cast<const CUpti_ActivityMemset4*>(r);
      records.push_back(
          {m->start, m->end, m->deviceId, m->streamId, m->graphId, "memset " + std::to_string(m->bytes)});
    }
  }
  free(buffer);
}

void finish() {
  cuptiActivityFlushAll(1);
  const char* path = getenv("GLIA_TRACE");
  const char* last = getenv("GLIA_TRACE_LAST");
  FILE* file = fopen(path ? path : "kernel_trace.csv", "w");
  if (!file) return;
  const std::lock_guard lock(mutex);
  std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) { return a.begin < b.begin; });
  const size_t keep = last ? strtoul(last, nullptr, 10) : 4000;
  fprintf(file, "begin_ns,ns,gap_ns,device,stream,graph,name\n");
  uint64_t before[64] = {};  // where a device's last one ended
  for (size_t i = records.size() > keep ? records.size() - keep : 0; i < records.size(); ++i) {
    const Record& r = records[i];
    uint64_t& last_end = before[r.device % 64];
    fprintf(file, "%llu,%llu,%lld,%u,%u,%u,\"%s\"\n", static_cast<unsigned long long>(r.begin),
            static_cast<unsigned long long>(r.end - r.begin),
            last_end ? static_cast<long long>(r.begin) - static_cast<long long>(last_end) : 0, r.device, r.stream,
            r.graph, r.name.c_str());
    last_end = std::max(last_end, r.end);
  }
  fclose(file);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
  atexit(finish);
  return 1;
}
