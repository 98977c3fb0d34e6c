/* Stands in for NVIDIA's driver and libraries: memory is the host's, copies are made, kernels and products are counted and
   not computed. At its end the program's calls are written to the file that CUDA_CALLS names. count.py adds what else a
   program asks for, as functions that are counted and do nothing. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct count {
  const char *name;
  atomic_long calls;
  struct count *next;
};

static _Atomic(struct count *) counts;

#define COUNT(of)                                                                                  \
  do {                                                                                             \
    static struct count it = {#of};                                                                \
    if (!it.calls++) {                                                                             \
      it.next = counts;                                                                            \
      while (!atomic_compare_exchange_weak(&counts, &it.next, &it)) {                              \
      }                                                                                            \
    }                                                                                              \
  } while (0)

__attribute__((destructor)) static void write_counts(void) {
  const char *path = getenv("CUDA_CALLS");
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) return;
  for (struct count *it = counts; it; it = it->next) fprintf(file, "%s %ld\n", it->name, (long)it->calls);
  fclose(file);
}

static int handle;
enum { MEMORY_POOLS_SUPPORTED = 115, COMPUTE_CAPABILITY_MAJOR = 75 };

int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  return *value = attribute == MEMORY_POOLS_SUPPORTED ? 1 : attribute == COMPUTE_CAPABILITY_MAJOR ? 9 : 0, 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &handle, 0; }
int cuCtxGetCurrent(void **context) { COUNT(cuCtxGetCurrent); return *context = &handle, 0; }
int cuStreamCreate(void **stream, unsigned flags) { COUNT(cuStreamCreate); return *stream = &handle, 0; }
int cuStreamIsCapturing(void *stream, int *status) { COUNT(cuStreamIsCapturing); return *status = 0, 0; }
int cuEventCreate(void **event, unsigned flags) { COUNT(cuEventCreate); return *event = &handle, 0; }
int cuModuleLoadData(void **module, const void *image) { return *module = &handle, 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  COUNT(cuModuleGetFunction);
  return *function = &handle, 0;
}
int cuMemAllocAsync(uint64_t *at, size_t bytes, void *stream) {
  COUNT(cuMemAllocAsync);
  return *at = (uint64_t)calloc(1, bytes + 1), *at ? 0 : 2;
}
int cuMemFreeAsync(uint64_t at, void *stream) { COUNT(cuMemFreeAsync); return free((void *)at), 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  COUNT(cuMemcpyHtoDAsync);
  return memcpy((void *)to, from, bytes), 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  COUNT(cuMemcpyDtoHAsync);
  return memcpy(to, (void *)from, bytes), 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
  COUNT(cuMemcpyDtoDAsync);
  return memmove((void *)to, (void *)from, bytes), 0;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void *stream) {
  COUNT(cuMemsetD8Async);
  return memset((void *)at, value, bytes), 0;
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *all) { return *free_bytes = (size_t)4 << 30, *all = (size_t)8 << 30, 0; }
int cuDeviceGetDefaultMemPool(void **pool, int device) { return *pool = &handle, 0; }
int cuGetErrorString(int error, const char **text) { return *text = "no text", 0; }
int cublasCreate_v2(void **library) { return *library = &handle, 0; }
int curandCreateGenerator(void **generator, int kind) { return *generator = &handle, 0; }
