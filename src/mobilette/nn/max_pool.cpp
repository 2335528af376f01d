// Max pooling of channels_last maps, and its gradient: a row of the input at a time, from the windows
// that cover it, so that no result depends on the number of threads.

#include <omp.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "maps.h"

namespace {

struct Pool {
  Size images, channels, rows, columns, out_rows, out_columns, kernel, stride, padding;

  // The first and the end of the window's rows (or columns) that lie in the map.
  Size begin(Size out) const { return std::max<Size>(out * stride - padding, 0); }
  Size end(Size out, Size size) const { return std::min(out * stride - padding + kernel, size); }

  // The first and the end of the windows that cover a row.
  Size first(Size row) const { return std::max<Size>(row + padding - kernel + stride, 0) / stride; }
  Size last(Size row) const { return std::min((row + padding) / stride + 1, out_rows); }
};

// Places in windows, a byte each in memory.
template <int lanes>
struct Places {
  using Bits = typename Block<lanes>::Bits;

  static Bits load(const std::uint8_t* from) {
    Bits places;
    for (int lane = 0; lane < lanes; ++lane) places[lane] = from[lane];
    return places;
  }

  static void store(std::uint8_t* to, Bits places) {
    for (int lane = 0; lane < lanes; ++lane) to[lane] = static_cast<std::uint8_t>(places[lane]);
  }
};

#ifdef __AVX512F__
template <>
struct Places<16> {
  using Bits = Block<16>::Bits;

  static Bits load(const std::uint8_t* from) {
    return (Bits)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }

  static void store(std::uint8_t* to, Bits places) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)places));
  }
};
#endif

// Calls work(lanes, first channel) for all channels, in blocks.
template <class Work>
void each_block(Size channels, Work work) {
  Size c = 0;
  for (; c + LANES <= channels; c += LANES) work(std::integral_constant<int, LANES>(), c);
  for (; c + 4 <= channels; c += 4) work(std::integral_constant<int, 4>(), c);
  for (; c < channels; ++c) work(std::integral_constant<int, 1>(), c);
}

// The greatest of each window and its place in it, from 0 row by row; the first of equal ones, and
// NaN before all others, as PyTorch does.
template <class Value>
void pool_row(const Pool& pool, const Value* x, Size out_row, Value* y, std::uint8_t* places) {
  const Size top = pool.begin(out_row), bottom = pool.end(out_row, pool.rows);
  const Size above = out_row * pool.stride - pool.padding;
  for (Size out = 0; out < pool.out_columns; ++out) {
    const Size left = pool.begin(out), right = pool.end(out, pool.columns);
    const Size before = out * pool.stride - pool.padding;
    each_block(pool.channels, [&](auto lanes, Size c) {
      using B = Block<lanes()>;
      typename B::Floats most = -std::numeric_limits<float>::infinity() - typename B::Floats{};
      typename B::Bits place{};
      place += static_cast<std::uint32_t>((top - above) * pool.kernel + left - before);
      for (Size row = top; row < bottom; ++row)
        for (Size column = left; column < right; ++column) {
          const auto value = B::load(x + (row * pool.columns + column) * pool.channels + c);
          const auto is_more = (value > most) | (value != value);
          const auto here = static_cast<std::uint32_t>((row - above) * pool.kernel + column - before);
          most = is_more ? value : most;
          place = is_more ? here - typename B::Bits{} : place;
        }
      const Size at = out * pool.channels + c;
      B::store(y + at, most);
      Places<lanes()>::store(places + at, place);
    });
  }
}

// `sums` is room for a row.
template <class Value>
void unpool_row(const Pool& pool, const Value* gradient, const std::uint8_t* places, Size row,
                float* sums, Value* of_x) {
  const Size channels = pool.channels, count = pool.columns * channels;
  std::fill(sums, sums + count, 0.f);
  for (Size out_row = pool.first(row); out_row < pool.last(row); ++out_row) {
    const Size place = (row - out_row * pool.stride + pool.padding) * pool.kernel;
    for (Size out = 0; out < pool.out_columns; ++out) {
      const Size at = (out_row * pool.out_columns + out) * channels;
      const Size before = out * pool.stride - pool.padding;
      const Size left = pool.begin(out), right = pool.end(out, pool.columns);
      each_block(channels, [&](auto lanes, Size c) {
        using B = Block<lanes()>;
        const auto of_window = B::load(gradient + at + c);
        const auto greatest = Places<lanes()>::load(places + at + c);
        for (Size column = left; column < right; ++column) {
          float* const to = sums + column * channels + c;
          const auto here = static_cast<std::uint32_t>(place + column - before);
          const auto part = greatest == here ? of_window : typename B::Floats{};
          B::store(to, B::load(to) + part);
        }
      });
    }
  }
  each_block(count, [&](auto lanes, Size i) {
    using B = Block<lanes()>;
    B::store(of_x + i, B::load(sums + i));
  });
}

}  // namespace

#define POOL                                                                                  \
  Size images, Size channels, Size rows, Size columns, Size out_rows, Size out_columns,       \
      Size kernel, Size stride, Size padding
#define AS_POOL \
  {images, channels, rows, columns, out_rows, out_columns, kernel, stride, padding}
#define IN_PARALLEL _Pragma("omp parallel for num_threads(threads) schedule(static)")

#define DEFINE(VALUE, TYPE)                                                                    \
  extern "C" int max_pool_##TYPE(POOL, const VALUE* x, VALUE* y, std::uint8_t* places,         \
                                 int threads) {                                                \
    const Pool pool AS_POOL;                                                                   \
    IN_PARALLEL for (Size line = 0; line < images * out_rows; ++line) {                        \
      const Size image = line / out_rows, to = line * out_columns * channels;                  \
      pool_row(pool, x + image * rows * columns * channels, line % out_rows, y + to,           \
               places + to);                                                                   \
    }                                                                                          \
    return 0;                                                                                  \
  }                                                                                            \
  extern "C" int max_unpool_##TYPE(POOL, const VALUE* gradient, const std::uint8_t* places,    \
                                   VALUE* of_x, int threads) {                                 \
    const Pool pool AS_POOL;                                                                   \
    const Size size = columns * channels;                                                      \
    return without_exceptions([&] {                                                            \
      std::vector<float> sums(threads * size);                                                 \
      IN_PARALLEL for (Size line = 0; line < images * rows; ++line) {                          \
        const Size from = line / rows * out_rows * out_columns * channels;                     \
        unpool_row(pool, gradient + from, places + from, line % rows,                          \
                   sums.data() + omp_get_thread_num() * size, of_x + line * size);             \
      }                                                                                        \
    });                                                                                        \
  }

DEFINE(float, float32)
DEFINE(BFloat16, bfloat16)
