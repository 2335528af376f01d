// What the kernels share: bf16, activations, and the channels of a pixel in vector registers.

#ifndef MOBILETTE_MAPS_H
#define MOBILETTE_MAPS_H

#include <cstdint>
#include <cstring>
#include <new>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define NOT_INLINE __attribute__((noinline))

namespace {

using Size = std::int64_t;
using BFloat16 = std::uint16_t;  // the upper half of a float

// Identity, ReLU and ReLU6, of floats or vectors of them. Comparisons let NaN through, as PyTorch
// does.
struct Clamp {
  float low, high;

  template <class Floats>
  Floats activate(Floats z) const {
    const Floats least = low - Floats{}, most = high - Floats{};
    return z < least ? least : z > most ? most : z;
  }

  // The gradient of z, given that of activate(z).
  template <class Floats>
  Floats pass(Floats gradient, Floats z) const {
    const Floats least = low - Floats{}, most = high - Floats{};
    return (z <= least) | (z >= most) ? Floats{} : gradient;
  }
};

struct HardSwish {
  Clamp gate;  // of 0 and 6

  template <class Floats>
  Floats activate(Floats z) const {
    return z * gate.activate(z + 3.f) * (1.f / 6.f);
  }

  template <class Floats>
  Floats pass(Floats gradient, Floats z) const {
    const Floats three = Floats{} + 3.f;
    return z < -three ? Floats{} : z > three ? gradient : gradient * (z * (1.f / 3.f) + 0.5f);
  }
};

// Some channels of a pixel.
template <int lanes>
struct Block;

// By a macro, for GCC 12 does not take `__builtin_convertvector` in a template.
#define DEFINE_BLOCK(LANES, WIDEN, ROUND)                                                           \
  template <>                                                                           \
  struct Block<LANES> {                                                                 \
    typedef float Floats __attribute__((vector_size(4 * LANES)));                       \
    typedef std::uint32_t Bits __attribute__((vector_size(4 * LANES)));                 \
    typedef std::uint16_t Halves __attribute__((vector_size(2 * LANES)));               \
                                                                                        \
    static Floats load(const float* from) {                                             \
      Floats value;                                                                     \
      std::memcpy(&value, from, sizeof value);                                          \
      return value;                                                                     \
    }                                                                                   \
                                                                                        \
    static Floats load(const BFloat16* from) {                                          \
      Halves halves;                                                                    \
      std::memcpy(&halves, from, sizeof halves);                                        \
      return (Floats)(WIDEN(halves) << 16);                                             \
    }                                                                                   \
                                                                                        \
    static Bits widened(Halves halves) { return __builtin_convertvector(halves, Bits); } \
                                                                                        \
    static void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); } \
                                                                                        \
    static void store(BFloat16* to, Floats value) {                                     \
      const Halves halves = ROUND(value);                                               \
      std::memcpy(to, &halves, sizeof halves);                                          \
    }                                                                                   \
                                                                                        \
    /* To nearest, ties to even. */                                                     \
    static Halves rounded(Floats value) {                                               \
      const Bits bits = (Bits)value, is_nan = (Bits)(value != value);                   \
      const Bits near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;                   \
      return __builtin_convertvector((is_nan & 0x7fc0u) | (~is_nan & near), Halves);    \
    }                                                                                   \
  };

#ifdef __AVX512BF16__
#define ROUND_16(value) (Halves) _mm512_cvtneps_pbh((__m512)value)
#else
#define ROUND_16 rounded
#endif

DEFINE_BLOCK(1, widened, rounded)
DEFINE_BLOCK(4, widened, rounded)
#ifdef __AVX512F__
// GCC 12 widens by halves.
#define WIDEN_16(halves) (Bits) _mm512_cvtepu16_epi32((__m256i)halves)
DEFINE_BLOCK(16, WIDEN_16, ROUND_16)
constexpr int LANES = 16;
#else
DEFINE_BLOCK(8, widened, rounded)
constexpr int LANES = 8;
#endif

// 0, or 1 where there is no memory: no exception may leave C.
template <class Work>
int without_exceptions(Work work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

#define ACTIVATION const char *activation, float low, float high

template <class Work>
int with_activation(ACTIVATION, Work work) {
  const Clamp clamp{low, high};
  return without_exceptions([&] {
    if (std::strcmp(activation, "hard_swish"))
      work(clamp);
    else
      work(HardSwish{clamp});
  });
}

}  // namespace

#endif
