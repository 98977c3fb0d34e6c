/* Stands in for NVIDIA's driver and libraries: memory is the host's, all work is done at once, kernels and products are
   computed by device.cpp. At its end the program's calls are written to the file that CUDA_CALLS names. A function that is
   not here is one that the program was not known to call: the loader names it. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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
enum { OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { MEMORY_POOLS_SUPPORTED = 115, COMPUTE_CAPABILITY_MAJOR = 75 };

int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  return *value = attribute == MEMORY_POOLS_SUPPORTED ? 1 : attribute == COMPUTE_CAPABILITY_MAJOR ? 9 : 0, 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &handle, 0; }

/* A thread's calls need a context; a program that has one stream must never use another, which nothing would order. */
static _Thread_local void *current_context;
static struct stream {
  int number;
} streams[4096];
static atomic_int streams_made;
int enter(const void *stream) {
  if (streams_made == 1 && stream != streams) fputs("work that is not in the program's one stream\n", stderr), abort();
  return current_context ? 0 : INVALID_CONTEXT;
}
int enter_product(const void *stream) { COUNT(cublasGemmStridedBatchedEx); return enter(stream); }
int cuCtxGetCurrent(void **context) { COUNT(cuCtxGetCurrent); return *context = current_context, 0; }
int cuCtxSetCurrent(void *context) { COUNT(cuCtxSetCurrent); return current_context = context, 0; }
int cuStreamCreate(void **stream, unsigned flags) {
  COUNT(cuStreamCreate);
  int number = streams_made++;
  if (number >= sizeof streams / sizeof *streams) return OUT_OF_MEMORY;
  return *stream = streams + number, current_context ? 0 : INVALID_CONTEXT;
}
int cuStreamIsCapturing(void *stream, int *status) { COUNT(cuStreamIsCapturing); return *status = 0, 0; }
int cuEventCreate(void **event, unsigned flags) { COUNT(cuEventCreate); return *event = &handle, 0; }
int cuModuleLoadData(void **module, const void *image) { return *module = &handle, 0; }

const void *kernel_of_name(const char *name);
void run_kernel(const void *kernel, const unsigned *grid, const unsigned *block, void **arguments);

int cuModuleGetFunction(const void **function, void *module, const char *name) {
  COUNT(cuModuleGetFunction);
  if (!(*function = kernel_of_name(name))) fprintf(stderr, "no kernel %s was made\n", name);
  return *function ? 0 : NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **arguments, void **extra) {
  COUNT(cuLaunchKernel);
  int error = enter(stream);
  if (error) return error;
  return run_kernel(function, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, arguments), 0;
}

/* Memory ends where a page begins that nobody may touch, is full of NaN when it is handed out, and is gone when it was given
   back: what reads past an end, too early or too late does not go unseen. */
enum { PAGE = 4096, ALIGNED = 16 };
struct mapping {
  char *start;
  size_t bytes;
};
int cuMemAllocAsync(uint64_t *at, size_t bytes, void *stream) {
  COUNT(cuMemAllocAsync);
  int error = enter(stream);
  if (error) return error;
  size_t taken = (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
  size_t whole = (taken + sizeof(struct mapping) + PAGE - 1) / PAGE * PAGE + PAGE;
  char *start = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return OUT_OF_MEMORY;
  char *end = start + whole - PAGE, *here = end - taken;
  mprotect(end, PAGE, PROT_NONE);
  memset(here, 0xff, taken);
  ((struct mapping *)here)[-1] = (struct mapping){start, whole};
  return *at = (uint64_t)here, 0;
}
int cuMemFreeAsync(uint64_t at, void *stream) {
  COUNT(cuMemFreeAsync);
  int error = enter(stream);
  if (error) return error;
  if (!at) return 0;
  struct mapping of = ((struct mapping *)at)[-1];
  return munmap(of.start, of.bytes), 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  COUNT(cuMemcpyHtoDAsync);
  int error = enter(stream);
  if (error) return error;
  return memcpy((void *)to, from, bytes), 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  COUNT(cuMemcpyDtoHAsync);
  int error = enter(stream);
  if (error) return error;
  return memcpy(to, (void *)from, bytes), 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
  COUNT(cuMemcpyDtoDAsync);
  int error = enter(stream);
  if (error) return error;
  return memmove((void *)to, (void *)from, bytes), 0;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void *stream) {
  COUNT(cuMemsetD8Async);
  int error = enter(stream);
  if (error) return error;
  return memset((void *)at, value, bytes), 0;
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *all) { return *free_bytes = (size_t)4 << 30, *all = (size_t)8 << 30, 0; }
int cuDeviceGetDefaultMemPool(void **pool, int device) { return *pool = &handle, 0; }
int cuGetErrorString(int error, const char **text) { return *text = "no text", 0; }

/* A handle of cuBLAS is the place of its stream. */
int cublasCreate_v2(const void ***library) { return *library = calloc(1, sizeof(void *)), *library ? 0 : 1; }
int cublasSetStream_v2(const void **library, const void *stream) { COUNT(cublasSetStream); return *library = stream, 0; }
int cublasDestroy_v2(void *library) { return free(library), 0; }
int curandCreateGenerator(void **generator, int kind) { return *generator = &handle, 0; }

#define ONLY_COUNTED(name)                                                                         \
  int name() { COUNT(name); return 0; }
ONLY_COUNTED(cuInit)
ONLY_COUNTED(cuCtxDestroy_v2)
ONLY_COUNTED(cuCtxSynchronize)
ONLY_COUNTED(cuDevicePrimaryCtxRelease_v2)
ONLY_COUNTED(cuEventDestroy_v2)
ONLY_COUNTED(cuEventRecord)
ONLY_COUNTED(cuMemPoolSetAttribute)
ONLY_COUNTED(cuMemPoolTrimTo)
ONLY_COUNTED(cuModuleUnload)
ONLY_COUNTED(cuStreamDestroy_v2)
ONLY_COUNTED(cuStreamSynchronize)
ONLY_COUNTED(cuStreamWaitEvent)
ONLY_COUNTED(curandDestroyGenerator)
ONLY_COUNTED(curandSetPseudoRandomGeneratorSeed)
ONLY_COUNTED(curandSetStream)

#define NOT_MADE(name)                                                                             \
  int name() { return fprintf(stderr, #name " is not made here\n"), abort(), 1; }
NOT_MADE(cuMemAlloc_v2)
NOT_MADE(cuMemFree_v2)
NOT_MADE(cuMemcpyPeerAsync)
NOT_MADE(cuModuleLoad)
NOT_MADE(cublasDgemmStridedBatched)
