// Runs the kernels that kernels.hpp compiles, and the matrix products of cuBLAS, on a CPU: slowly, and always in one order.
#include "kernels.hpp"
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <ucontext.h>
#include <vector>

namespace on_cpu {
dim3 grid, block, block_index;
uint3 thread_index;
const Kernel *kernels;

namespace {
enum class Waits { FOR_NOTHING, FOR_WARP, FOR_BLOCK };

// A stack of its own on which one thread after another runs, until one waits.
struct Fiber {
  static constexpr size_t STACK_BYTES = 64 << 10;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
  unsigned thread;
  Waits waits;
};

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
std::vector<std::unique_ptr<Fiber>> fibers;
ucontext_t scheduler;
Fiber *running;
Call kernel;
void *const *kernel_arguments;
unsigned threads, begun;
Value values[2][MOST_THREADS];
unsigned shuffles[MOST_THREADS];

void become(unsigned thread) {
  running->thread = thread;
  thread_index = {thread % block.x, thread / block.x % block.y, thread / block.x / block.y};
}

void run_threads() {
  while (begun < threads) {
    become(begun++);
    kernel(kernel_arguments);
  }
  running->waits = Waits::FOR_NOTHING;
}

void wait(Waits what) {
  Fiber *self = running;
  self->waits = what;
  swapcontext(&self->context, &scheduler);
}

void go_on(Fiber *fiber) {
  running = fiber;
  if (fiber->waits != Waits::FOR_NOTHING) become(fiber->thread);
  swapcontext(&scheduler, &fiber->context);
}

Fiber *new_fiber(size_t number) {
  if (number == fibers.size()) fibers.push_back(std::make_unique<Fiber>());
  Fiber *fiber = fibers[number].get();
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = Fiber::STACK_BYTES;
  fiber->context.uc_link = &scheduler;
  fiber->waits = Waits::FOR_NOTHING;
  makecontext(&fiber->context, run_threads, 0);
  return fiber;
}

// Those that may go on: warps all of whose lanes are at a shuffle; where there are none, everybody, if all are at a barrier.
std::vector<Fiber *> released(const std::vector<Fiber *> &waiting) {
  bool parted[MOST_THREADS / WARP] = {};
  for (Fiber *fiber : waiting) parted[fiber->thread / WARP] |= fiber->waits == Waits::FOR_BLOCK;
  std::vector<Fiber *> may;
  bool shuffling = false;
  for (Fiber *fiber : waiting) {
    shuffling |= fiber->waits == Waits::FOR_WARP;
    if (fiber->waits == Waits::FOR_WARP && !parted[fiber->thread / WARP]) may.push_back(fiber);
  }
  if (!may.empty()) return may;
  if (shuffling) std::fputs("lanes of one warp wait at a shuffle and at a barrier\n", stderr), std::abort();
  return waiting;
}

void run_block() {
  threads = block.x * block.y * block.z;
  begun = 0;
  std::vector<Fiber *> waiting;
  for (size_t number = 0; begun < threads; number++) {
    Fiber *fiber = new_fiber(number);
    go_on(fiber);
    if (fiber->waits != Waits::FOR_NOTHING) waiting.push_back(fiber);
  }
  while (!waiting.empty()) {
    for (Fiber *fiber : released(waiting)) go_on(fiber);
    waiting.erase(std::remove_if(waiting.begin(), waiting.end(), [](Fiber *fiber) { return fiber->waits == Waits::FOR_NOTHING; }),
                  waiting.end());
  }
}
} // namespace

void wait_for_block() { wait(Waits::FOR_BLOCK); }
void wait_for_warp() { wait(Waits::FOR_WARP); }
unsigned lane() { return running->thread % WARP; }
Value *next_values() { return &values[shuffles[running->thread]++ % 2][running->thread / WARP * WARP]; }
} // namespace on_cpu

using namespace on_cpu;

extern "C" int enter_product(const void *stream);

static std::mutex one_at_a_time;

extern "C" const void *kernel_of_name(const char *name) {
  for (const Kernel *it = kernels; it; it = it->next)
    if (!std::strcmp(it->name, name)) return it;
  return nullptr;
}

extern "C" void run_kernel(const void *which, const unsigned *blocks, const unsigned *threads_of_each, void **arguments) {
  std::lock_guard guard(one_at_a_time);
  grid = dim3(blocks[0], blocks[1], blocks[2]);
  block = dim3(threads_of_each[0], threads_of_each[1], threads_of_each[2]);
  kernel = static_cast<const Kernel *>(which)->call;
  kernel_arguments = arguments;
  std::memset(shuffles, 0, sizeof(shuffles));
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block_index = dim3(x, y, z);
        run_block();
      }
}

namespace {
float read(const void *at, int kind, long long i) {
  switch (kind) {
  case CUDA_R_32F: return static_cast<const float *>(at)[i];
  case CUDA_R_16F: return __half2float(static_cast<const __half *>(at)[i]);
  case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[i]);
  default: std::fprintf(stderr, "a product of numbers of kind %d\n", kind), std::abort();
  }
}
void write(void *at, int kind, long long i, float value) {
  switch (kind) {
  case CUDA_R_32F: static_cast<float *>(at)[i] = value; break;
  case CUDA_R_16F: static_cast<__half *>(at)[i] = __float2half(value); break;
  default: static_cast<__nv_bfloat16 *>(at)[i] = __float2bfloat16(value);
  }
}
// A matrix's entries, row by row, whatever its layout.
void unpack(std::vector<float> &into, const void *at, int kind, long long start, int rows, int columns, long long row_stride,
            long long column_stride) {
  for (int row = 0; row < rows; row++)
    for (int column = 0; column < columns; column++)
      into[size_t(row) * columns + column] = read(at, kind, start + row * row_stride + column * column_stride);
}
float dot(const float *left, const float *right, int length) {
  float sums[16] = {}, sum = 0;
  for (int i = 0; i < length; i++) sums[i % 16] += left[i] * right[i];
  for (float part : sums) sum += part;
  return sum;
}
} // namespace

// C = alpha op(A) op(B) + beta C for a batch of matrices, all of them column by column; sums in single precision.
extern "C" int cublasGemmStridedBatchedEx(const void *const *library, int turn_a, int turn_b, int m, int n, int k,
                                          const void *alpha, const void *a, int kind_a, int lda, long long stride_a,
                                          const void *b, int kind_b, int ldb, long long stride_b, const void *beta,
                                          void *c, int kind_c, int ldc, long long stride_c, int batch, int computed_in,
                                          int) {
  constexpr int EXECUTION_FAILED = 13;
  if (enter_product(*library)) return EXECUTION_FAILED;
  constexpr int COMPUTED_IN_HALF = 64;
  int scalars = computed_in == COMPUTED_IN_HALF ? CUDA_R_16F : CUDA_R_32F;
  float of_product = read(alpha, scalars, 0), of_old = read(beta, scalars, 0);
  std::vector<float> rows(size_t(m) * k), columns(size_t(n) * k);
  for (long long number = 0; number < batch; number++) {
    unpack(rows, a, kind_a, number * stride_a, m, k, turn_a ? lda : 1, turn_a ? 1 : lda);
    unpack(columns, b, kind_b, number * stride_b, n, k, turn_b ? 1 : ldb, turn_b ? ldb : 1);
    for (int j = 0; j < n; j++)
      for (int i = 0; i < m; i++) {
        long long at = number * stride_c + i + (long long)j * ldc;
        float old = of_old != 0 ? of_old * read(c, kind_c, at) : 0;
        write(c, kind_c, at, of_product * dot(&rows[size_t(i) * k], &columns[size_t(j) * k], k) + old);
      }
  }
  return 0;
}
