// The gradients of squeeze-and-excite's product of a map and a factor for each of its channels, in
// one pass: the map and the gradient of the product are read once, for both.

#include "maps.h"

namespace {

// One image, `pixels` x `channels`; `sums` are the factors' gradients, of float32.
template <class Value>
void excite_image(Size pixels, Size channels, const Value* x, const Value* gradient,
                  const float* factors, Value* of_x, float* sums) {
  using Wide = Block<LANES>;
  using One = Block<1>;
  for (Size p = 0; p < pixels; ++p) {
    const Size at = p * channels;
    Size c = 0;
    for (; c + LANES <= channels; c += LANES) {
      const auto up = Wide::load(gradient + at + c);
      Wide::store(of_x + at + c, up * Wide::load(factors + c));
      Wide::store(sums + c, Wide::load(sums + c) + up * Wide::load(x + at + c));
    }
    for (; c < channels; ++c) {
      const auto up = One::load(gradient + at + c);
      One::store(of_x + at + c, up * One::load(factors + c));
      One::store(sums + c, One::load(sums + c) + up * One::load(x + at + c));
    }
  }
}

}  // namespace

// `x`, `gradient` and `of_x` are images x pixels x channels, `factors` and their gradients images x
// channels.
#define DEFINE_EXCITE(TYPE, VALUE)                                                                \
  extern "C" int excite_gradients_##TYPE(Size images, Size pixels, Size channels, const VALUE* x, \
                                         const VALUE* gradient, const float* factors,             \
                                         VALUE* of_x, float* of_factors, int threads) {           \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") for (Size n = 0;            \
                                                                           n < images; ++n) {     \
      const Size map = n * pixels * channels;                                                     \
      float* sums = of_factors + n * channels;                                                    \
      std::memset(sums, 0, sizeof(float) * channels);                                             \
      excite_image(pixels, channels, x + map, gradient + map, factors + n * channels, of_x + map, \
                   sums);                                                                         \
    }                                                                                             \
    return 0;                                                                                     \
  }

DEFINE_EXCITE(float32, float)
DEFINE_EXCITE(bfloat16, BFloat16)
