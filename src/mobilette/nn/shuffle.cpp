// ShuffleNet's concatenation, shuffle of two groups and, where it follows, split into halves, in one
// pass, and the way back of its gradient.
//
// Of a pixel, channels 2i and 2i + 1 of the shuffled map are channel i of the two parts.

#include "maps.h"

namespace {

template <class Value>
void interleave(Size pairs, const Value* __restrict a, const Value* __restrict b,
                Value* __restrict to) {
  for (Size i = 0; i < pairs; ++i) {
    to[2 * i] = a[i];
    to[2 * i + 1] = b[i];
  }
}

template <class Value>
void part(Size pairs, const Value* __restrict from, Value* __restrict a, Value* __restrict b) {
  for (Size i = 0; i < pairs; ++i) {
    a[i] = from[2 * i];
    b[i] = from[2 * i + 1];
  }
}

}  // namespace

// `a` and `b` are pixels x channels; so are `left` and `right` if `stride` is `channels`. If it is
// twice that, they are the halves of one map.
#define DEFINE_SHUFFLE(TYPE, VALUE)                                                               \
  extern "C" int shuffle_##TYPE(Size pixels, Size channels, Size stride, const VALUE* a,          \
                                const VALUE* b, VALUE* left, VALUE* right, int threads) {         \
    const Size half = channels / 2;                                                               \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") for (Size p = 0;            \
                                                                           p < pixels; ++p) {     \
      const VALUE *from_a = a + p * channels, *from_b = b + p * channels;                         \
      interleave(half, from_a, from_b, left + p * stride);                                        \
      interleave(half, from_a + half, from_b + half, right + p * stride);                         \
    }                                                                                             \
    return 0;                                                                                     \
  }                                                                                               \
                                                                                                  \
  extern "C" int unshuffle_##TYPE(Size pixels, Size channels, Size stride, VALUE* a, VALUE* b,    \
                                  const VALUE* left, const VALUE* right, int threads) {           \
    const Size half = channels / 2;                                                               \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") for (Size p = 0;            \
                                                                           p < pixels; ++p) {     \
      VALUE *to_a = a + p * channels, *to_b = b + p * channels;                                   \
      part(half, left + p * stride, to_a, to_b);                                                  \
      part(half, right + p * stride, to_a + half, to_b + half);                                   \
    }                                                                                             \
    return 0;                                                                                     \
  }

DEFINE_SHUFFLE(float32, float)
DEFINE_SHUFFLE(bfloat16, BFloat16)
