// What depthwise convolutions do to one row of one block of channels: passes that know no borders.

#ifndef MOBILETTE_DEPTHWISE_ROWS_H
#define MOBILETTE_DEPTHWISE_ROWS_H

#include <type_traits>

#include "maps.h"

#define UNROLL _Pragma("GCC unroll 16")

// GCC would rather load a value again for each product than keep it. Before AVX a register is too short.
#ifdef __AVX__
#define KEEP_IN_REGISTER(value) __asm__("" : "+v"(value))
#else
#define KEEP_IN_REGISTER(value)
#endif

namespace {

// The batch norm and activation before the convolution, if there are any: activate(x * scale + shift).
struct Before {
  const char* activation;
  Clamp clamp;
  const float *scale, *shift, *mean;

  // Calls work(before), of a type that says what it is. Norms are for blocks of all lanes.
  template <int lanes, class Work>
  void known(Work work) const;
};

// A block of channels, and room for the sums of its norm's gradients or null.
struct Channels {
  const Before& before;
  Size first;
  float* norm_sums;
};

// What passes over rows need of it. Made where it is used: a copy would wait for what it copies.
template <int lanes>
struct Nothing {
  using Floats = typename Block<lanes>::Floats;

  explicit Nothing(const Channels&) {}
  Floats normalise(Floats x) const { return x; }
  Floats activate(Floats z) const { return z; }
  Floats pass(Floats of_x, Floats, Floats) { return of_x; }
  void keep() const {}
};

template <int lanes, class Activation>
struct Norm {
  using B = Block<lanes>;
  using Floats = typename B::Floats;

  const Activation activation;
  const Floats scale, shift, mean;
  float* const sums;  // [sum, product][lane], or null
  Floats sum{}, product{};

  explicit Norm(const Channels& some)
      : activation{some.before.clamp},
        scale(B::load(some.before.scale + some.first)),
        shift(B::load(some.before.shift + some.first)),
        mean(some.norm_sums ? B::load(some.before.mean + some.first) : Floats{}),
        sums(some.norm_sums) {
    if (!sums) return;
    sum = B::load(sums);
    product = B::load(sums + lanes);
  }

  Floats normalise(Floats x) const { return x * scale + shift; }
  Floats activate(Floats z) const { return activation.activate(z); }

  // The gradient of z; adds up those, and their products with the centred x, of which the norm's own
  // gradients are made.
  Floats pass(Floats gradient, Floats x, Floats z) {
    const Floats of_z = activation.pass(gradient, z);
    sum += of_z;
    product += of_z * (x - mean);
    return of_z;
  }

  void keep() const {
    B::store(sums, sum);
    B::store(sums + lanes, product);
  }
};

template <class Type>
struct As {
  using type = Type;
};

template <int lanes, class Work>
void Before::known(Work work) const {
  if constexpr (lanes == LANES) {
    if (scale && !std::strcmp(activation, "hard_swish")) return work(As<Norm<lanes, HardSwish>>());
    if (scale) return work(As<Norm<lanes, Clamp>>());
  }
  work(As<Nothing<lanes>>());
}

// Rows of a map, of one block of channels, widened to floats; where a row is depends on its number
// alone, so that as many as are needed together stay there.
struct Window {
  float* rows;
  float* zeros;
  Size capacity, line, map_rows;

  float* row(Size number) const { return rows + number % capacity * line; }

  // For the padding above and below, zeros.
  const float* at(Size number) const {
    return number < 0 || number >= map_rows ? zeros : row(number);
  }
};

// Writes a block's pixels, `apart` values apart in rows of `columns`, one after the other.
template <int lanes, class Known, class Value>
NOT_INLINE void widen_rows(const Channels& channels, Size first, Size end, Size columns, Size apart,
                           Size left, const Value* map, const Window& window) {
  const Known norm(channels);
  for (Size number = first; number < end; ++number) {
    const Value* from = map + number * columns * apart;
    const Size ahead = number + 1 < window.map_rows ? columns * apart : 0;
    float* to = window.row(number) + left * lanes;
    for (Size column = 0; column < columns; ++column, from += apart, to += lanes) {
      __builtin_prefetch(from + ahead);
      Block<lanes>::store(to, norm.activate(norm.normalise(Block<lanes>::load(from))));
    }
  }
}

// Adds up values and squares for the batch norm after the convolution: differences to one value,
// for sums of squares cancel where the mean is large.
template <int lanes>
struct Moments {
  using Floats = typename Block<lanes>::Floats;
  float* const origin_sum_square;
  const Floats origin;
  Floats sum, square;

  explicit Moments(float* all)
      : origin_sum_square(all),
        origin(Block<lanes>::load(all)),
        sum(Block<lanes>::load(all + lanes)),
        square(Block<lanes>::load(all + 2 * lanes)) {}

  void add(Floats value) {
    const Floats difference = value - origin;
    sum += difference;
    square += difference * difference;
  }

  ~Moments() {
    Block<lanes>::store(origin_sum_square + lanes, sum);
    Block<lanes>::store(origin_sum_square + 2 * lanes, square);
  }
};

template <int lanes>
struct NoMoments {
  explicit NoMoments(float*) {}
  void add(typename Block<lanes>::Floats) {}
};

// `count` results side by side: what they share of a row is loaded once.
template <int kernel, int stride, int lanes, int count, class Floats>
inline void convolve_columns(const float* const* from, Size column, const Floats* taps,
                             Floats* results) {
  UNROLL for (int t = 0; t < count; ++t) results[t] = Floats{};
  UNROLL for (int i = 0; i < kernel; ++i)
    UNROLL for (int place = 0; place < kernel + stride * (count - 1); ++place) {
      Floats pixel = Block<lanes>::load(from[i] + (column * stride + place) * lanes);
      KEEP_IN_REGISTER(pixel);
      UNROLL for (int t = 0; t < count; ++t)
        if (place >= t * stride && place < t * stride + kernel)
          results[t] += pixel * taps[i * kernel + place - t * stride];
    }
}

// Writes `count` rows of results, of `columns` pixels `apart` values apart, from the rows of a window
// that begin at `above`.
template <int kernel, int stride, int lanes, class Sums, class Value>
NOT_INLINE void convolve_rows(Size count, Size columns, Size apart, const Window& window, Size above,
                              const float* weight, float* moments, Value* to) {
  using B = Block<lanes>;
  constexpr int together = kernel == 3 ? 4 : 2;
  typename B::Floats taps[kernel * kernel], results[together];
  UNROLL for (int tap = 0; tap < kernel * kernel; ++tap) taps[tap] = B::load(weight + tap * lanes);
  Sums sums(moments);
  for (Size row = 0; row < count; ++row, above += stride) {
    const float* from[kernel];
    UNROLL for (int i = 0; i < kernel; ++i) from[i] = window.at(above + i);
    Size column = 0;
    for (; column + together <= columns; column += together) {
      convolve_columns<kernel, stride, lanes, together>(from, column, taps, results);
      UNROLL for (int t = 0; t < together; ++t, to += apart) {
        __builtin_prefetch(to + columns * apart, 1);
        sums.add(results[t]);
        B::store(to, results[t]);
      }
    }
    for (; column < columns; ++column, to += apart) {
      convolve_columns<kernel, stride, lanes, 1>(from, column, taps, results);
      sums.add(results[0]);
      B::store(to, results[0]);
    }
  }
}

// A row of a block of the input, and of its gradient.
template <class Value>
struct Row {
  Size columns, left, apart, ahead;
  const Value* x;
  Value* of_x;
};

// Adds what `count` rows of the gradient give through as many rows of the kernel, to the input's
// gradient and to that of the weights. Position `stride` * q + phase of the padded input was read by
// the output's positions q - t through the kernel's columns phase + t * stride. The input's gradient
// is written if `is_all`, else added to `part`.
template <int kernel, int stride, int lanes, int count, bool is_all, class Known, class Value>
NOT_INLINE void add_gradients(const Channels& channels, const Row<Value>& row,
                              const float* const* gradients, const float* const* weights,
                              float* const* of_weights, float* part) {
  Known norm(channels);
  using B = Block<lanes>;
  using Floats = typename B::Floats;
  constexpr int reach = (kernel + stride - 1) / stride;
  Floats taps[count][kernel], sums[count][kernel], near[count][reach];
  const float* from[count];
  Size column = 0, q = row.left / stride;
  UNROLL for (int i = 0; i < count; ++i) {
    from[i] = gradients[i] + q * lanes;
    UNROLL for (int j = 0; j < kernel; ++j) {
      taps[i][j] = B::load(weights[i] + j * lanes);
      sums[i][j] = B::load(of_weights[i] + j * lanes);
    }
    UNROLL for (int t = 0; t < reach; ++t) near[i][t] = B::load(from[i] - t * lanes);
  }
  const auto advance = [&] {
    UNROLL for (int i = 0; i < count; ++i) {
      UNROLL for (int t = reach - 1; t > 0; --t) near[i][t] = near[i][t - 1];
      from[i] += lanes;
      near[i][0] = B::load(from[i]);
    }
  };
  const auto add = [&](auto phase) {
    const Size at = column * row.apart;
    __builtin_prefetch(row.x + at + row.ahead);
    __builtin_prefetch(row.of_x + at + row.ahead, 1);
    const Floats x = B::load(row.x + at), z = norm.normalise(x), pixel = norm.activate(z);
    Floats of_x = is_all ? Floats{} : B::load(part + column * lanes);
    UNROLL for (int i = 0; i < count; ++i)
      UNROLL for (int t = 0; phase + t * stride < kernel; ++t) {
        of_x += near[i][t] * taps[i][phase + t * stride];
        sums[i][phase + t * stride] += near[i][t] * pixel;
      }
    if (is_all)
      B::store(row.of_x + at, norm.pass(of_x, x, z));
    else
      B::store(part + column * lanes, of_x);
    ++column;
  };
  using First = std::integral_constant<int, 0>;
  using Last = std::integral_constant<int, stride - 1>;
  if (stride == 2 && row.left % 2) {
    add(Last());
    advance();
  }
  while (column + stride <= row.columns) {
    add(First());
    if (stride == 2) add(Last());
    advance();
  }
  if (column < row.columns) add(First());
  UNROLL for (int i = 0; i < count; ++i)
    UNROLL for (int j = 0; j < kernel; ++j) B::store(of_weights[i] + j * lanes, sums[i][j]);
  if (is_all) norm.keep();
}

template <int lanes, class Known, class Value>
NOT_INLINE void finish_row(const Channels& channels, const Row<Value>& row, const float* part) {
  using B = Block<lanes>;
  Known norm(channels);
  for (Size column = 0; column < row.columns; ++column) {
    const auto x = B::load(row.x + column * row.apart);
    B::store(row.of_x + column * row.apart,
             norm.pass(B::load(part + column * lanes), x, norm.normalise(x)));
  }
  norm.keep();
}

// The gradients that row `padded` of the padded input gives and gets. `part` is room for a row.
template <int kernel, int stride, int lanes, class Known, class Value>
void go_back(const Channels& channels, const Row<Value>& row, const Window& window, Size padded,
             const float* weight, float* of_weight, float* part) {
  constexpr int reach = (kernel + stride - 1) / stride;
  const float *rows[reach], *weights[reach];
  float* of_weights[reach];
  int count = 0;
  for (Size i = padded % stride; i < kernel; i += stride, ++count) {
    rows[count] = window.at(padded / stride - i / stride);
    weights[count] = weight + i * kernel * lanes;
    of_weights[count] = of_weight + i * kernel * lanes;
  }
  if constexpr (kernel == 3) {  // all fit registers together
    if (count == reach)
      add_gradients<kernel, stride, lanes, reach, true, Known>(channels, row, rows, weights,
                                                               of_weights, part);
    else
      add_gradients<kernel, stride, lanes, 1, true, Known>(channels, row, rows, weights, of_weights,
                                                           part);
  } else {
    std::memset(part, 0, 4 * row.columns * lanes);
    for (int i = 0; i < count; ++i)
      if (rows[i] != window.zeros)
        add_gradients<kernel, stride, lanes, 1, false, Known>(channels, row, rows + i, weights + i,
                                                              of_weights + i, part);
    finish_row<lanes, Known>(channels, row, part);
  }
}

}  // namespace

#endif
