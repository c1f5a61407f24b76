/* LSTM steps in float32, forward and backward: the pointwise half of a step (for unrolled.py), and below all steps of a
   stack of layers (for stacked.py), and convolutions (for winograd.py). compiled.py compiles this file. */
__attribute__((simd("notinbranch"))) float expf(float);
__attribute__((simd("notinbranch"))) float tanhf(float);
enum { WIDE = 256, SMALL = 8192 }; /* elements of a buffer; from SMALL elements on, two threads took 0.6 of the time */
int omp_get_num_threads(void), omp_get_thread_num(void), omp_get_max_threads(void);
static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* A matrix has H features (rows) and B columns. A matrix of all gates has 4 H rows: i, f, g, o. p: the 3 H peepholes of
   i, f and o, or 0. All are float32, one row after the other; with maps, one column after the other. The functions pass
   over lines, which are rows, with maps columns, from line j to end. */

/* The peepholes p_ifo of `wide` elements of line j from `first` on. */
static inline void fill(float p_ifo[3][WIDE], const float *restrict p, long H, int maps, long j, long first, long wide) {
  for (long gate = 0; gate < 3; gate++)
    if (!p) for (long k = 0; k < wide; k++) p_ifo[gate][k] = 0;
    else if (maps) for (long k = 0; k < wide; k++) p_ifo[gate][k] = p[gate * H + first + k];
    else for (long k = 0; k < wide; k++) p_ifo[gate][k] = p[gate * H + j];
}

/* One step forward. Reads the sum of product (4 H, B), or 0, and add (4 H, B), whose rows are add_row and whose columns
   are add_column elements apart, and before (H, B), the last c. Writes z (4 H, B), which is i, f, tanh(c), o; and g, c
   and h, each (H, B). */
static void forward_lines(const float *restrict product, const float *restrict add, long add_row, long add_column,
                          float *restrict z, float *restrict g, const float *restrict before, float *restrict c,
                          float *restrict h, const float *restrict p, long H, long B, int maps, long j, long end) {
  float sum[4][WIDE], p_ifo[3][WIDE];
  const long length = maps ? H : B, n = maps ? H : H * B, line = maps ? 4 * H : B; /* n elements to the next gate */
  const long outer = maps ? add_column : add_row, inner = maps ? add_row : add_column;
  for (; j < end; j++)
    for (long first = 0; first < length; first += WIDE) {
      long wide = length - first < WIDE ? length - first : WIDE, at = j * length + first, to = j * line + first;
      fill(p_ifo, p, H, maps, j, first, wide);
      for (long gate = 0; gate < 4; gate++) {
        const float *own = product + gate * n + to, *more = add + gate * H * add_row + j * outer + first * inner;
        if (inner == 0) for (long k = 0; k < wide; k++) sum[gate][k] = *more;
        else if (inner == 1) for (long k = 0; k < wide; k++) sum[gate][k] = more[k];
        else for (long k = 0; k < wide; k++) sum[gate][k] = more[k * inner];
        if (product) for (long k = 0; k < wide; k++) sum[gate][k] += own[k];
      }
      for (long k = 0; k < wide; k++) {
        float last = before[at + k], new = tanhf(sum[2][k]);
        float i = sigmoid(sum[0][k] + p_ifo[0][k] * last), f = sigmoid(sum[1][k] + p_ifo[1][k] * last);
        float cell = f * last + i * new, o = sigmoid(sum[3][k] + p_ifo[2][k] * cell), t = tanhf(cell);
        z[to + k] = i, z[n + to + k] = f, z[2 * n + to + k] = t, z[3 * n + to + k] = o;
        g[at + k] = new, c[at + k] = cell, h[at + k] = o * t;
      }
    }
}

/* One step backward. Reads what forward has left and d_h (H, B), the gradient of h. Writes d (4 H, B), the gradient of
   product + add, whose lines are d_line elements apart. d_c (H, B), the gradient of c, becomes that of the c before. */
static void backward_lines(const float *restrict z, const float *restrict g, const float *restrict before,
                           const float *restrict c, const float *restrict d_h, float *restrict d_c, float *restrict d,
                           long d_line, const float *restrict p, long H, long B, int maps, long j, long end) {
  const long length = maps ? H : B, n = maps ? H : H * B, line = maps ? 4 * H : B, m = maps ? H : H * d_line;
  float p_ifo[3][WIDE];
  for (; j < end; j++)
    for (long first = 0; first < length; first += WIDE) {
      long wide = length - first < WIDE ? length - first : WIDE;
      fill(p_ifo, p, H, maps, j, first, wide);
      for (long k = 0; k < wide; k++) {
        long at = j * length + first + k, from = j * line + first + k, to = j * d_line + first + k;
        float i = z[from], f = z[n + from], t = z[2 * n + from], o = z[3 * n + from], new = g[at];
        float d_o = d_h[at] * t * o * (1 - o), d_cell = d_c[at] + d_h[at] * o * (1 - t * t) + d_o * p_ifo[2][k];
        float d_i = d_cell * new * i * (1 - i), d_f = d_cell * before[at] * f * (1 - f);
        d[to] = d_i, d[m + to] = d_f, d[2 * m + to] = d_cell * i * (1 - new * new), d[3 * m + to] = d_o;
        d_c[at] = d_cell * f + d_i * p_ifo[0][k] + d_f * p_ifo[1][k];
      }
    }
}

/* Gives each thread its lines, j to end. The loops stand in functions of their own: in the parallel region itself gcc
   loses `restrict`, and they took three times as long. */
#define SHARED(function, ...) \
  _Pragma("omp parallel if (H * B >= SMALL)") { \
    long n = omp_get_num_threads(), own = omp_get_thread_num(), lines = maps ? B : H; \
    long j = lines * own / n, end = lines * (own + 1) / n; \
    function(__VA_ARGS__, H, B, maps, j, end); }

void forward(const float *product, const float *add, long add_row, long add_column, float *z, float *g,
             const float *before, float *c, float *h, const float *p, long H, long B, int maps) {
  SHARED(forward_lines, product, add, add_row, add_column, z, g, before, c, h, p)
}

void backward(const float *z, const float *g, const float *before, const float *c, const float *d_h, float *d_c,
              float *d, long d_line, const float *p, long H, long B, int maps) {
  SHARED(backward_lines, z, g, before, c, d_h, d_c, d, d_line, p)
}

/* All steps of a stack of layers. T steps of B columns (sequences), which lie one after the other: x is (T, B, D), h
   (B, H). A thread makes all steps of its columns, so that none waits for another, which may not have a processor. */

/* A tile of a product is COLUMNS columns of TILE rows: four vectors, which are the four gates of LANES features, or the
   next TILE features. AT_ONCE of them are made at a time, as many as fit the processor's 32 or 16 registers. */
#if defined(__AVX512F__)
enum { LANES = 16, AT_ONCE = 4 };
#elif defined(__AVX__)
enum { LANES = 8, AT_ONCE = 2 };
#elif defined(__aarch64__)
enum { LANES = 4, AT_ONCE = 4 };
#else
enum { LANES = 4, AT_ONCE = 2 };
#endif
enum { COLUMNS = 6, TILE = 4 * LANES };
enum { THREADED = 1 << 17 }; /* one thread makes steps of fewer multiplications than THREADED */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
static inline long least(long a, long b) { return a < b ? a : b; }

/* Adds to sum (C, TILE) the product of v (K, TILE) and of s (K, C), whose numbers are s_row and s_column apart. */
__attribute__((always_inline)) static inline void tile(long C, const float *restrict v, const float *restrict s,
                                                       long s_row, long s_column, long K, float *restrict sum) {
  for (long first = 0; first < TILE; first += AT_ONCE * LANES) {
    lanes own[COLUMNS][AT_ONCE];
    for (long c = 0; c < C; c++)
      for (long n = 0; n < AT_ONCE; n++) own[c][n] = ((lanes *)(sum + c * TILE + first))[n];
    for (long k = 0; k < K; k++) {
      const lanes *read = (const lanes *)(v + k * TILE + first);
      for (long c = 0; c < C; c++)
        for (long n = 0; n < AT_ONCE; n++) own[c][n] += s[k * s_row + c * s_column] * read[n];
    }
    for (long c = 0; c < C; c++)
      for (long n = 0; n < AT_ONCE; n++) ((lanes *)(sum + c * TILE + first))[n] = own[c][n];
  }
}

__attribute__((noinline)) static void add_product(long C, const float *v, const float *s, long s_row, long s_column,
                                                  long K, float *sum) {
#define OF(n) case n: if (n <= COLUMNS) tile(n, v, s, s_row, s_column, K, sum); break;
  switch (C) { OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) }
}

/* Passes over columns b to end, C of them at a time, as evenly as can be. */
#define EACH_CHUNK(first, C, b, end) for (long first = (b), C; (C = evenly((end) - first)) > 0; first += C)
static inline long evenly(long n) {
  long chunks = (n + COLUMNS - 1) / COLUMNS;
  return n > 0 ? (n + chunks - 1) / chunks : 0;
}

/* The fields have 8 bytes each: stacked.py reads their names here, and hands over a list of them in this order. A layer
   reads the h of the one below. The first one reads x; or, if the stack feeds back, what was `read` the step before,
   activation(out), where out is gain h of the top layer or weight (P, H) h + bias; or nothing. d_…: gradients, written
   backward; d_out is read, and added to. packed_…: memory for what tiles read as v, in its order; see pack_gates and
   pack. */
struct layer {
  const float *weight_ih, *weight_hh, *bias, *p, *h; /* (4 H, D), (4 H, H), (4 H), (3, H) or 0, (B, H) or 0 */
  float *hidden, *cell, *gates, *g;                  /* (T, B, H), (T + 1, B, H), (T, B, 4, H), (T, B, H) */
  float *packed_ih, *packed_hh, *packed_read, *packed_h; /* of weights; backward of what they have read as well */
  float *d_z, *d_h, *d_c;                            /* (T, B, 4 H), (B, H), (B, H) */
  float *d_weight_ih, *d_weight_hh;                  /* or 0 */
  long D, H;
};
struct stack {
  long count, T, B, feeds_back, activation; /* activation: 0 none, 1 tanh, 2 sigmoid */
  const float *x, *weight, *bias;           /* (T, B, D) or 0, (P, H) or 0, (P) or 0 */
  float *packed, *packed_read;              /* as those of a layer */
  float *out, *read, *d_out;                /* each (T, B, P); read may be out, d_out 0 */
  float *d_x, *d_weight;                    /* (T, B, D) or 0, (P, H) or 0 */
  long P;
  struct layer layers[];
};

/* Tiles from j to end of a matrix (K, n), one after the other: each has K rows of TILE, zeros beyond n. */
static void pack(float *restrict to, const float *restrict from, long K, long n, long j, long end) {
  for (; j < end; j++)
    for (long k = 0, u = j * TILE, wide = least(TILE, n - u); k < K; k++) {
      float *own = to + (j * K + k) * TILE;
      for (long r = 0; r < wide; r++) own[r] = from[k * n + u + r];
      for (long r = wide; r < TILE; r++) own[r] = 0;
    }
}

/* The same of a matrix (gates n, K), transposed; a tile has TILE / gates features of each of the gates, 4 or 1. */
static void pack_gates(float *restrict to, const float *restrict from, long gates, long n, long K, long j, long end) {
  enum { NEAR = 16 }; /* columns at a time, whose lines the first cache holds */
  for (long wide = TILE / gates; j < end; j++)
    for (long first = 0; first < K; first += NEAR)
      for (long r = 0; r < TILE; r++) {
        long feature = j * wide + r % wide;
        const float *own = from + (r / wide * n + feature) * K;
        for (long k = first; k < least(first + NEAR, K); k++) to[(j * K + k) * TILE + r] = feature < n ? own[k] : 0;
      }
}

/* The peepholes of n features, or zeros. */
static void fill_features(float p_ifo[3][TILE], const float *p, long H, long n) {
  for (long gate = 0; gate < 3; gate++) for (long k = 0; k < n; k++) p_ifo[gate][k] = p ? p[gate * H + k] : 0;
}

/* n features of one column forward, from the sums of products and bias of their gates, as forward_lines. */
__attribute__((noinline)) static void forward_units(const float *restrict sum, float *restrict z, float *restrict g,
                                                    const float *restrict before, float *restrict c, float *restrict h,
                                                    const float *restrict p, long H, long n) {
  float p_ifo[3][TILE];
  fill_features(p_ifo, p, H, n);
  for (long k = 0; k < n; k++) {
    float last = before[k], new = tanhf(sum[2 * LANES + k]);
    float i = sigmoid(sum[k] + p_ifo[0][k] * last), f = sigmoid(sum[LANES + k] + p_ifo[1][k] * last);
    float cell = f * last + i * new, o = sigmoid(sum[3 * LANES + k] + p_ifo[2][k] * cell), t = tanhf(cell);
    z[k] = i, z[H + k] = f, z[2 * H + k] = t, z[3 * H + k] = o;
    g[k] = new, c[k] = cell, h[k] = o * t;
  }
}

/* n features of one column backward, from the gradient d_h of their h, as backward_lines. */
__attribute__((noinline)) static void backward_units(const float *restrict d_h, const float *restrict z,
                                                     const float *restrict g, const float *restrict before,
                                                     float *restrict d_c, float *restrict d, const float *restrict p,
                                                     long H, long n) {
  float p_ifo[3][TILE];
  fill_features(p_ifo, p, H, n);
  for (long k = 0; k < n; k++) {
    float i = z[k], f = z[H + k], t = z[2 * H + k], o = z[3 * H + k], new = g[k];
    float d_o = d_h[k] * t * o * (1 - o), cell = d_c[k] + d_h[k] * o * (1 - t * t) + d_o * p_ifo[2][k];
    float d_i = cell * new * i * (1 - i), d_f = cell * before[k] * f * (1 - f);
    d[k] = d_i, d[H + k] = d_f, d[2 * H + k] = cell * i * (1 - new * new), d[3 * H + k] = d_o;
    d_c[k] = cell * f + d_i * p_ifo[0][k] + d_f * p_ifo[1][k];
  }
}

static void forward_layer(const struct layer *l, const float *x, long t, long B, long b, long end) {
  long D = l->D, H = l->H;
  const float *h = t ? l->hidden + (t - 1) * B * H : l->h;
  for (long u = 0; u < H; u += LANES)
    EACH_CHUNK(first, C, b, end) {
      float sum[COLUMNS * TILE];
      long n = least(LANES, H - u);
      for (long c = 0; c < 4 * C; c++)
        for (long k = 0; k < LANES; k++) sum[c * LANES + k] = k < n ? l->bias[c % 4 * H + u + k] : 0;
      if (x) add_product(C, l->packed_ih + u * 4 * D, x + first * D, 1, D, D, sum);
      if (h) add_product(C, l->packed_hh + u * 4 * H, h + first * H, 1, H, H, sum);
      for (long c = 0; c < C; c++) {
        long last = (t * B + first + c) * H + u, at = last + B * H; /* at u of a column; in gates 4 (last - u) + u */
        forward_units(sum + c * TILE, l->gates + 4 * last - 3 * u, l->g + last, l->cell + last, l->cell + at,
                      l->hidden + last, l->p ? l->p + u : 0, H, n);
      }
    }
}

/* out and read of step t. */
static void forward_output(const struct stack *s, const struct layer *top, float gain, long t, long b, long end) {
  long B = s->B, P = s->P, H = top->H;
  const float *h = top->hidden + t * B * H;
  for (long u = 0; u < P; u += TILE)
    EACH_CHUNK(first, C, b, end) {
      float sum[COLUMNS * TILE] = {0};
      long n = least(TILE, P - u);
      for (long c = 0; c < C; c++)
        for (long k = 0; k < n; k++)
          sum[c * TILE + k] = !s->weight ? gain * h[(first + c) * H + u + k] : s->bias ? s->bias[u + k] : 0;
      if (s->weight) add_product(C, s->packed + u * H, h + first * H, 1, H, H, sum);
      for (long c = 0; c < C; c++) {
        float *out = s->out + (t * B + first + c) * P + u, *read = s->read + (t * B + first + c) * P + u;
        for (long k = 0; k < n; k++) out[k] = sum[c * TILE + k];
        if (s->activation == 1) for (long k = 0; k < n; k++) read[k] = tanhf(out[k]);
        if (s->activation == 2) for (long k = 0; k < n; k++) read[k] = sigmoid(out[k]);
      }
    }
}

static void backward_layer(const struct stack *s, const struct layer *l, float gain, long t, long b, long end) {
  long B = s->B, H = l->H;
  const struct layer *above = l + 1 < s->layers + s->count ? l + 1 : 0;
  long R = above ? 4 * above->H : 0;
  const float *d_out = above || !s->d_out ? 0 : s->d_out + t * B * s->P;
  for (long u = 0; u < H; u += TILE)
    EACH_CHUNK(first, C, b, end) {
      float sum[COLUMNS * TILE] = {0};
      long n = least(TILE, H - u);
      for (long c = 0; c < C; c++) {
        float *own = sum + c * TILE;
        long at = (first + c) * H + u;
        if (t + 1 == s->T) for (long k = 0; k < n; k++) own[k] = l->d_h[at + k];
        if (d_out && !s->weight) for (long k = 0; k < n; k++) own[k] += gain * d_out[at + k];
      }
      if (t + 1 < s->T)
        add_product(C, l->packed_hh + u * 4 * H, l->d_z + ((t + 1) * B + first) * 4 * H, 1, 4 * H, 4 * H, sum);
      if (above)
        add_product(C, above->packed_ih + u * R, above->d_z + (t * B + first) * R, 1, R, R, sum);
      else if (d_out && s->weight) add_product(C, s->packed + u * s->P, d_out + first * s->P, 1, s->P, s->P, sum);
      for (long c = 0; c < C; c++) {
        long at = (t * B + first + c) * H + u, z = 4 * at - 3 * u;
        backward_units(sum + c * TILE, l->gates + z, l->g + at, l->cell + at, l->d_c + (first + c) * H + u, l->d_z + z,
                       l->p ? l->p + u : 0, H, n);
      }
    }
}

/* The gradient of what the first layer has read at step t: written to d_x, or, if the stack feeds back, added to d_out
   of the step before. */
static void backward_input(const struct stack *s, const struct layer *l, long t, long b, long end) {
  long B = s->B, D = l->D, H = l->H;
  for (long u = 0; u < D; u += TILE)
    EACH_CHUNK(first, C, b, end) {
      float sum[COLUMNS * TILE] = {0};
      long n = least(TILE, D - u);
      add_product(C, l->packed_ih + u * 4 * H, l->d_z + (t * B + first) * 4 * H, 1, 4 * H, 4 * H, sum);
      for (long c = 0; c < C; c++) {
        long at = (t * B + first + c) * D + u, before = at - B * D;
        if (s->feeds_back) for (long k = 0; k < n; k++) {
          float v = s->read[before + k], slope = s->activation == 0 ? 1 : s->activation == 1 ? 1 - v * v : v * (1 - v);
          s->d_out[before + k] += sum[c * TILE + k] * slope;
        }
        else for (long k = 0; k < n; k++) s->d_x[at + k] = sum[c * TILE + k];
      }
    }
}

/* Rows j to end of d_weight (R, D), the sum over N columns of d (N, R) times x (N, D), which is packed. */
static void gradient(float *d_weight, long R, long D, const float *d, const float *x, long N, long j, long end) {
  for (long u = 0; d_weight && u < D; u += TILE)
    EACH_CHUNK(first, C, j, end) {
      float sum[COLUMNS * TILE] = {0};
      add_product(C, x + u * N, d + first, R, 1, N, sum);
      for (long c = 0; c < C; c++)
        for (long k = 0; k < least(TILE, D - u); k++) d_weight[(first + c) * D + u + k] = sum[c * TILE + k];
    }
}

#define ON_THREADS(threaded) _Pragma("omp parallel if (threaded)")
/* from and to: a thread's share of n, and of B columns, of which no thread gets less than SOME if there are as many */
#define SHARE(n, from, to) long from = share(n, 0), to = share(n, 1)
#define SHARE_COLUMNS(B, from, to) \
  SHARE(((B) + SOME - 1) / SOME, some, end_of_some); \
  long from = some * SOME, to = least(end_of_some * SOME, B)
enum { SOME = 4 };
static long share(long n, long next) { return n * (omp_get_thread_num() + next) / omp_get_num_threads(); }

static long work(const struct stack *s) {
  long sum = 0;
  for (const struct layer *l = s->layers; l < s->layers + s->count; l++) sum += 4 * l->H * (l->D + l->H) * s->B;
  return sum;
}

static long tiles(long n, long gates) { return (n * gates + TILE - 1) / TILE; }

static void start_forward(const struct stack *s) {
  for (const struct layer *l = s->layers; l < s->layers + s->count; l++) {
    SHARE(tiles(l->H, 4), j, end);
    if (l > s->layers || s->x || s->feeds_back) pack_gates(l->packed_ih, l->weight_ih, 4, l->H, l->D, j, end);
    pack_gates(l->packed_hh, l->weight_hh, 4, l->H, l->H, j, end);
  }
  SHARE(tiles(s->P, 1), j, end);
  if (s->weight) pack_gates(s->packed, s->weight, 1, s->P, s->layers[s->count - 1].H, j, end);
}

static void start_backward(const struct stack *s) {
  const struct layer *top = s->layers + s->count - 1;
  long T = s->T, B = s->B;
  for (const struct layer *l = s->layers; l <= top; l++) {
    int fed = l == s->layers && s->feeds_back;
    const float *x = fed ? s->read : l == s->layers ? s->x : l[-1].hidden;
    SHARE(tiles(l->H, 1), j, end);
    pack(l->packed_hh, l->weight_hh, 4 * l->H, l->H, j, end);
    pack(l->packed_h, l->hidden, (T - 1) * B, l->H, j, end);
    SHARE(tiles(l->D, 1), i, end_of_D);
    if (x) pack(l->packed_ih, l->weight_ih, 4 * l->H, l->D, i, end_of_D);
    if (x) pack(l->packed_read, x, (T - fed) * B, l->D, i, end_of_D);
  }
  SHARE(tiles(top->H, 1), j, end);
  if (s->weight) pack(s->packed, s->weight, s->P, top->H, j, end);
  if (s->weight) pack(s->packed_read, top->hidden, T * B, top->H, j, end);
}

static void forward_columns(const struct stack *s, float gain) {
  const struct layer *top = s->layers + s->count - 1;
  SHARE_COLUMNS(s->B, b, end);
  for (long t = 0; t < s->T; t++) {
    const float *x = s->x ? s->x + t * s->B * s->layers->D : s->feeds_back && t ? s->read + (t - 1) * s->B * s->P : 0;
    for (const struct layer *l = s->layers; l <= top; l++) {
      forward_layer(l, x, t, s->B, b, end);
      x = l->hidden + t * s->B * l->H;
    }
    if (s->feeds_back) forward_output(s, top, gain, t, b, end);
  }
}

static void backward_columns(const struct stack *s, float gain) {
  SHARE_COLUMNS(s->B, b, end);
  for (long t = s->T - 1; t >= 0; t--) {
    for (const struct layer *l = s->layers + s->count - 1; l >= s->layers; l--) backward_layer(s, l, gain, t, b, end);
    if (s->feeds_back ? t > 0 : s->d_x != 0) backward_input(s, s->layers, t, b, end);
  }
}

static void gradients(const struct stack *s) {
  const struct layer *top = s->layers + s->count - 1;
  long N = s->T * s->B, later = N - s->B; /* of all steps, and of all but the first, whose h the caller knows */
  for (const struct layer *l = s->layers; l <= top; l++) {
    SHARE(4 * l->H, j, end);
    const float *next = l->d_z + 4 * l->H * s->B;
    int fed = l == s->layers && s->feeds_back;
    gradient(l->d_weight_ih, 4 * l->H, l->D, fed ? next : l->d_z, l->packed_read, fed ? later : N, j, end);
    gradient(l->d_weight_hh, 4 * l->H, l->H, next, l->packed_h, later, j, end);
  }
  SHARE(s->P, j, end);
  gradient(s->d_weight, s->P, top->H, s->d_out, s->packed_read, N, j, end);
}

/* How many weights a layer may have for which this is faster than step after step by torch's libraries. They share the
   rows among threads, so that each reads a part of the weights; here each reads all, so the caches have to hold them,
   and each thread needs a few columns. Measured on two cores of a Zen 5; with vectors of 8 numbers only small layers,
   where the libraries wait for the next call, are faster. */
long largest(long B) { return LANES == 16 && B >= SOME * omp_get_max_threads() ? 1L << 23 : 1L << 19; }

void forward_stack(const struct stack *s, float gain) {
  long threaded = work(s) >= THREADED;
  ON_THREADS(threaded) start_forward(s);
  ON_THREADS(threaded) forward_columns(s, gain);
}

void backward_stack(const struct stack *s, float gain) {
  long threaded = work(s) >= THREADED;
  ON_THREADS(threaded) start_backward(s);
  ON_THREADS(threaded) backward_columns(s, gain);
  ON_THREADS(threaded) gradients(s);
}

/* Convolutions with kernels of 3x3, padded with zeros, by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray,
   2016, section 4.3): a tile of 4x4 outputs is A' [(G k G') . (B' x B)] A, where x are the 6x6 inputs that it sees and k
   is the kernel. For each pair of channels that takes POINTS products, one for each element, where plain sums take 144.
   Maps are (N, height, width, channels), kernels (outputs, 3, 3, inputs). Tiles are (POINTS, tiles of all maps,
   channels), and a point's tiles begin `point` numbers after those of the one before. */
enum { POINTS = 36, SEEN = 6, MADE = 4, CHUNK = 32, NEAR_TILES = 128, GAP = 48 };
static const float B_T[6][6] = {{4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
static const float A_T[4][6] = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
static const float G[6][3] = {{1.0f / 4, 0, 0}, {-1.0f / 6, -1.0f / 6, -1.0f / 6}, {-1.0f / 6, 1.0f / 6, -1.0f / 6},
                              {1.0f / 24, 1.0f / 12, 1.0f / 6}, {1.0f / 24, -1.0f / 12, 1.0f / 6}, {0, 0, 1}};
struct maps { long N, height, width, down, right; }; /* down, right: tiles of a map */

static inline lanes load(const float *from, long n) {
  if (n >= LANES) return *(const lanes *)from;
  lanes read = {0};
  for (long k = 0; k < n; k++) read[k] = from[k];
  return read;
}

static inline void store(float *to, lanes x, long n) {
  if (n >= LANES) *(lanes *)to = x;
  else for (long k = 0; k < n; k++) to[k] = x[k];
}

/* Tiles t to end of maps: of side SEEN B' x B; of side MADE A y A', the gradient of A' y A. They are written `block`
   channels of all tiles after the other. */
__attribute__((always_inline)) static inline void spread(long side, const float *maps, float *tiles, long point,
                                                         long block, struct maps m, long channels, long t, long end) {
  for (const long all = m.N * m.down * m.right; t < end; t++)
    for (long first = 0; first < channels; first += LANES) {
      const long top = t / m.right % m.down * MADE - (side == SEEN), left = t % m.right * MADE - (side == SEEN);
      lanes x[6][6] = {0}, half[6][6];
      for (long i = 0; i < side; i++) for (long j = 0; j < side; j++) {
        const long y = top + i, z = left + j, n = t / m.right / m.down;
        if (y >= 0 && y < m.height && z >= 0 && z < m.width)
          x[i][j] = load(maps + ((n * m.height + y) * m.width + z) * channels + first, channels - first);
      }
      for (long i = 0; i < 6; i++) for (long j = 0; j < side; j++) {
        half[i][j] = (lanes){0};
        for (long k = 0; k < side; k++) half[i][j] += (side == SEEN ? B_T[i][k] : A_T[k][i]) * x[k][j];
      }
      for (long i = 0; i < 6; i++) for (long j = 0; j < 6; j++) {
        lanes sum = {0};
        for (long k = 0; k < side; k++) sum += (side == SEEN ? B_T[j][k] : A_T[k][j]) * half[i][k];
        const long at = (first / block * all + t) * block + first % block;
        store(tiles + (i * 6 + j) * point + at, sum, block - first % block);
      }
    }
}

/* The inverse, of `some` channels of tiles t to end: of side MADE A' y A; of side SEEN the gradient of B' x B, which is
   added to the maps, as its tiles overlap. tiles: (POINTS, end - t, TILE). maps: from the first of these channels on. */
__attribute__((always_inline)) static inline void gather(long side, const float *tiles, float *maps, struct maps m,
                                                         long channels, long some, long t, long end) {
  for (const long point = (end - t) * TILE; t < end; t++, tiles += TILE)
    for (long first = 0; first < some; first += LANES) {
      const long top = t / m.right % m.down * MADE - (side == SEEN), left = t % m.right * MADE - (side == SEEN);
      lanes half[6][6];
      for (long j = 0; j < 6; j++) {
        lanes x[6];
        for (long k = 0; k < 6; k++) x[k] = *(const lanes *)(tiles + (k * 6 + j) * point + first);
        for (long i = 0; i < side; i++) {
          half[i][j] = (lanes){0};
          for (long k = 0; k < 6; k++) half[i][j] += (side == MADE ? A_T[i][k] : B_T[k][i]) * x[k];
        }
      }
      for (long i = 0; i < side; i++) for (long j = 0; j < side; j++) {
        const long y = top + i, z = left + j, n = t / m.right / m.down;
        float *own = maps + ((n * m.height + y) * m.width + z) * channels + first;
        if (y < 0 || y >= m.height || z < 0 || z >= m.width) continue;
        lanes sum = side == SEEN ? load(own, some - first) : (lanes){0};
        for (long k = 0; k < 6; k++) sum += (side == MADE ? A_T[j][k] : B_T[k][j]) * half[i][k];
        store(own, sum, some - first);
      }
    }
}

#define TILES(N, H, W) {N, H, W, (H + MADE - 1) / MADE, (W + MADE - 1) / MADE}
#define BLOCKS(n) (((n) + TILE - 1) / TILE)
#define POINT(m, K) ((m).N * (m).down * (m).right * (K) + GAP)

/* G k G' of kernels, for `convolve`: packed (tiles of R, POINTS, K, TILE). R are the outputs and K the inputs, or, for
   the gradient of the inputs (`back`), the other way round. */
void pack_kernels(const float *kernels, float *packed, long R, long K, long back) {
  _Pragma("omp parallel for collapse(2) if (R * K >= SMALL)")
  for (long u = 0; u < BLOCKS(R); u++)
    for (long k = 0; k < K; k++)
      for (long first = 0; first < TILE; first += LANES) {
        lanes x[9] = {0}, half[6][3];
        for (long r = u * TILE + first, n = 0; n < LANES && r < R; r++, n++)
          for (long i = 0; i < 9; i++) x[i][n] = kernels[back ? (k * 9 + i) * R + r : (r * 9 + i) * K + k];
        for (long i = 0; i < 6; i++) for (long j = 0; j < 3; j++)
          half[i][j] = G[i][0] * x[j] + G[i][1] * x[3 + j] + G[i][2] * x[6 + j];
        for (long i = 0; i < 6; i++) for (long j = 0; j < 6; j++)
          *(lanes *)(packed + ((u * POINTS + i * 6 + j) * K + k) * TILE + first) =
            G[j][0] * half[i][0] + G[j][1] * half[i][1] + G[j][2] * half[i][2];
      }
}

/* TILE channels of maps n to end, from u on. */
static void convolve_maps(const float *tiles, long point, const float *packed, float *z, struct maps m, long K, long R,
                          long back, long u, long n, long end) {
  const long each = m.down * m.right, some = least(TILE, R - u), pixels = m.height * m.width;
  float sum[POINTS * CHUNK * TILE];
  if (back) for (long at = n * pixels; at < end * pixels; at++) for (long k = 0; k < some; k++) z[at * R + u + k] = 0;
  for (long t = n * each, wide; t < end * each; t += wide) {
    wide = least(CHUNK, end * each - t);
    for (long i = 0; i < POINTS * wide * TILE; i++) sum[i] = 0;
    for (long p = 0; p < POINTS; p++)
      EACH_CHUNK(first, C, 0, wide)
        add_product(C, packed + p * K * TILE, tiles + p * point + (t + first) * K, 1, K, K,
                    sum + (p * wide + first) * TILE);
    if (back) gather(SEEN, sum, z + u, m, R, some, t, t + wide);
    else gather(MADE, sum, z + u, m, R, some, t, t + wide);
  }
}

/* z (N, height, width, R), the convolution of x (N, height, width, K) by packed kernels, or with `back` the gradient of
   what was convolved from that of its result. tiles: memory. */
void convolve(const float *x, const float *packed, float *z, float *tiles, long N, long height, long width, long K,
              long R, long back) {
  const struct maps m = TILES(N, height, width);
  const long each = m.down * m.right, point = POINT(m, K), blocks = BLOCKS(R);
  _Pragma("omp parallel if (N * height * width * K * R >= THREADED)") {
    SHARE(N * each, t, last);
    if (back) spread(MADE, x, tiles, point, K, m, K, t, last);
    else spread(SEEN, x, tiles, point, K, m, K, t, last);
    _Pragma("omp barrier")
    /* A thread has some channels of all maps; where there are too few, all channels of some maps. */
    const long n = omp_get_num_threads();
    SHARE(blocks, b, end_of_b);
    SHARE(N, own, end_of_own);
    if (blocks >= n || blocks >= N)
      for (; b < end_of_b; b++)
        convolve_maps(tiles, point, packed + b * POINTS * K * TILE, z, m, K, R, back, b * TILE, 0, N);
    else
      for (long u = 0; u < blocks; u++)
        convolve_maps(tiles, point, packed + u * POINTS * K * TILE, z, m, K, R, back, u * TILE, own, end_of_own);
  }
}

/* d_kernels (R, 3, 3, K), the gradient of the kernels that made of x (N, height, width, K) what has the gradient d_z
   (N, height, width, R). Memory: tiles_x, tiles_z, d_points (POINTS, tiles of R, K, TILE). */
void kernel_gradient(const float *x, const float *d_z, float *d_kernels, float *tiles_x, float *tiles_z,
                     float *d_points, long N, long height, long width, long K, long R) {
  const struct maps m = TILES(N, height, width);
  const long all = N * m.down * m.right, blocks = BLOCKS(R), point = blocks * TILE * K + GAP;
  const long point_x = POINT(m, K), point_z = POINT(m, blocks * TILE);
  _Pragma("omp parallel if (N * height * width * K * R >= THREADED)") {
    SHARE(all, t, end_of_t);
    spread(SEEN, x, tiles_x, point_x, K, m, K, t, end_of_t);
    spread(MADE, d_z, tiles_z, point_z, TILE, m, R, t, end_of_t);
    SHARE(POINTS * point, zero, end_of_zero);
    for (; zero < end_of_zero; zero++) d_points[zero] = 0;
    _Pragma("omp barrier")
    SHARE(POINTS, p, end_of_p);
    for (; p < end_of_p; p++)
      for (long n = 0; n < all; n += NEAR_TILES)
        for (long u = 0; u < blocks; u++)
          EACH_CHUNK(first, C, 0, K)
            add_product(C, tiles_z + p * point_z + (u * all + n) * TILE, tiles_x + p * point_x + n * K + first, K,
                        1, least(NEAR_TILES, all - n), d_points + p * point + (u * K + first) * TILE);
    _Pragma("omp barrier")
    SHARE(blocks * K, k, end_of_k);
    for (; k < end_of_k; k++)
      for (long first = 0; first < TILE; first += LANES) {
        lanes half[3][6], sum[9];
        for (long i = 0; i < 3; i++) for (long j = 0; j < 6; j++) {
          half[i][j] = (lanes){0};
          for (long q = 0; q < 6; q++)
            half[i][j] += G[q][i] * *(const lanes *)(d_points + (q * 6 + j) * point + k * TILE + first);
        }
        for (long i = 0; i < 3; i++) for (long j = 0; j < 3; j++) {
          sum[i * 3 + j] = (lanes){0};
          for (long q = 0; q < 6; q++) sum[i * 3 + j] += G[q][j] * half[i][q];
        }
        for (long r = k / K * TILE + first, n = 0; n < LANES && r < R; r++, n++)
          for (long i = 0; i < 9; i++) d_kernels[(r * 9 + i) * K + k % K] = sum[i][n];
      }
  }
}
