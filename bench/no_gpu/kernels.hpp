// The language of CUDA's kernels on a CPU: the threads of a block take turns, and one that waits at a barrier or a shuffle
// lets the next one run; blocks follow each other. Included before a kernel's source; CUDA's own headers give the half floats.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

namespace on_cpu {
extern dim3 grid, block, block_index;
extern uint3 thread_index;
// Waits until all threads of the block, or of the warp, that still run have come here.
void wait_for_block();
void wait_for_warp();
unsigned lane();
// Where the lanes of this thread's warp put the values of its next shuffle. There are two such places that take turns: none
// is written again before all lanes have read it.
struct Value { alignas(16) unsigned char bytes[16]; };
Value *next_values();

template <typename T> T shuffle(T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(Value));
  Value *values = next_values();
  std::memcpy(&values[lane()], &value, sizeof(T));
  wait_for_warp();
  std::memcpy(&value, &values[from], sizeof(T));
  return value;
}

// A kernel's address and how it gets its arguments.
using Call = void (*)(void *const *);
template <auto KERNEL, typename... A, size_t... I> void call(void *const *arguments, std::index_sequence<I...>) {
  KERNEL(*static_cast<std::remove_cv_t<A> *>(arguments[I])...);
}
template <auto KERNEL> struct Caller;
template <typename... A, void (*KERNEL)(A...)> struct Caller<KERNEL> {
  static void with(void *const *arguments) { call<KERNEL, A...>(arguments, std::index_sequence_for<A...>()); }
};
struct Kernel {
  const char *name;
  Call call;
  const Kernel *next;
};
extern const Kernel *kernels;
struct Registered : Kernel {
  Registered(const char *name, Call call) : Kernel{name, call, kernels} { kernels = this; }
};
} // namespace on_cpu

#define threadIdx (on_cpu::thread_index)
#define blockIdx (on_cpu::block_index)
#define blockDim (on_cpu::block)
#define gridDim (on_cpu::grid)

inline void __syncthreads() { on_cpu::wait_for_block(); }
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return on_cpu::shuffle(value, on_cpu::lane() ^ unsigned(mask));
}
template <typename T> T __ldg(const T *at) { return *at; }

// One thread runs at a time: nothing comes between reading and writing.
template <typename T> T atomicCAS(T *at, T expected, T value) {
  T old = *at;
  if (old == expected) *at = value;
  return old;
}
template <typename T, typename V> T atomicAdd(T *at, V value) { T old = *at; *at = old + T(value); return old; }
template <typename T, typename V> T atomicMax(T *at, V value) { T old = *at; *at = std::max(old, T(value)); return old; }
template <typename T, typename V> T atomicMin(T *at, V value) { T old = *at; *at = std::min(old, T(value)); return old; }

template <typename A, typename B>
using Common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B> && !std::is_same_v<A, B>,
                                std::common_type_t<A, B>>;
template <typename A, typename B> Common<A, B> min(A a, B b) { return std::min<Common<A, B>>(a, b); }
template <typename A, typename B> Common<A, B> max(A a, B b) { return std::max<Common<A, B>>(a, b); }

template <typename To, typename From> To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &value, sizeof(To));
  return to;
}
inline float __int_as_float(int v) { return bits_as<float>(v); }
inline int __float_as_int(float v) { return bits_as<int>(v); }
inline float __uint_as_float(unsigned v) { return bits_as<float>(v); }
inline unsigned __float_as_uint(float v) { return bits_as<unsigned>(v); }
inline double __longlong_as_double(long long v) { return bits_as<double>(v); }
inline long long __double_as_longlong(double v) { return bits_as<long long>(v); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.7071067811865476); }
// Half floats that the headers give to the GPU's compiler only: in single precision, rounded once.
#define HALF_FUNCTION(name, function)                                                                                  \
  inline __half name(__half x) { return __float2half(function(__half2float(x))); }                                     \
  inline __nv_bfloat16 name(__nv_bfloat16 x) { return __float2bfloat16(function(__bfloat162float(x))); }
HALF_FUNCTION(hsqrt, std::sqrt)
HALF_FUNCTION(hcos, std::cos)
HALF_FUNCTION(hsin, std::sin)
HALF_FUNCTION(hlog, std::log)
HALF_FUNCTION(hexp, std::exp)
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

#ifdef LIST_KERNELS // run.py looks for the names of kernels in what the preprocessor makes of a source.
#undef __global__
#define __global__ A_KERNEL
#endif
