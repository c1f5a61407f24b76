/* LSTM layers in float32, forward and backward: stacks of layers over all steps, and the pointwise half of a single
   step, for layers whose products torch makes. compiled.py compiles this file; recurrence.py and unrolled.py call it.

   A matrix has H rows (features) and B columns (sequences). A matrix of all gates has 4 H rows: i, f, g, o. p: the 3 H
   peepholes of i, f and o, or 0. All are contiguous, unless a distance between rows or columns is given. */
__attribute__((simd("notinbranch"))) float expf(float);
__attribute__((simd("notinbranch"))) float tanhf(float);
int omp_get_num_threads(void), omp_get_thread_num(void);
enum { WIDE = 256, SMALL = 8192 }; /* columns of a buffer; from SMALL elements on, two threads took 0.6 of the time */
static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* The pointwise half of a step. These functions stand alone, not in the loops that call them: inlined there, gcc loses
   `restrict`, and they took three times as long. */

/* Row j of one step forward, n columns from element `at` on, from the sums of products and bias of its gates. Reads
   before (H, B), the last c. Writes z (4 H, B), which is i, f, tanh(c), o; and g, c and h, each (H, B). */
__attribute__((noinline)) static void forward_row(
    const float *restrict s_i, const float *restrict s_f, const float *restrict s_g, const float *restrict s_o,
    float *restrict z, float *restrict g, const float *restrict before, float *restrict c, float *restrict h,
    const float *restrict p, long H, long B, long j, long at, long n) {
  float p_i = p ? p[j] : 0, p_f = p ? p[H + j] : 0, p_o = p ? p[2 * H + j] : 0;
  for (long k = 0; k < n; k++) {
    float last = before[at + k], new = tanhf(s_g[k]);
    float i = sigmoid(s_i[k] + p_i * last), f = sigmoid(s_f[k] + p_f * last), cell = f * last + i * new;
    float o = sigmoid(s_o[k] + p_o * cell), t = tanhf(cell);
    z[at + k] = i, z[H * B + at + k] = f, z[2 * H * B + at + k] = t, z[3 * H * B + at + k] = o;
    g[at + k] = new, c[at + k] = cell, h[at + k] = o * t;
  }
}

/* Row j of one step backward, n columns from element `at` on. Reads what forward has left and d_h (n), the gradient of
   h in this row. Writes d (4 H, B), the gradient of the sums, whose rows are d_row elements apart, from its column `to`
   on. d_c (H, B), the gradient of c, becomes that of the c before. */
__attribute__((noinline)) static void backward_row(
    const float *restrict z, const float *restrict g, const float *restrict before, const float *restrict d_h,
    float *restrict d_c, float *restrict d, long d_row, const float *restrict p, long H, long B, long j, long at,
    long to, long n) {
  float p_i = p ? p[j] : 0, p_f = p ? p[H + j] : 0, p_o = p ? p[2 * H + j] : 0;
  float *restrict d_i = d + j * d_row + to, *restrict d_f = d_i + H * d_row;
  float *restrict d_g = d_f + H * d_row, *restrict d_o = d_g + H * d_row;
  for (long k = 0; k < n; k++) {
    float i = z[at + k], f = z[H * B + at + k], t = z[2 * H * B + at + k], o = z[3 * H * B + at + k], new = g[at + k];
    float for_o = d_h[k] * t * o * (1 - o), cell = d_c[at + k] + d_h[k] * o * (1 - t * t) + for_o * p_o;
    float for_i = cell * new * i * (1 - i), for_f = cell * before[at + k] * f * (1 - f);
    d_i[k] = for_i, d_f[k] = for_f, d_g[k] = cell * i * (1 - new * new), d_o[k] = for_o;
    d_c[at + k] = cell * f + for_i * p_i + for_f * p_f;
  }
}

/* Products. Weights are packed so that the ROWS numbers that one column needs next lie side by side: (K, ROWS). A
   product of ROWS rows and two vectors of columns then stays in the processor's registers. */
enum { ROWS = 6, THREADED = 1 << 17 }; /* one thread makes steps of fewer multiplications than THREADED */
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { STRIP = 2 * LANES }; /* columns of a sum */
typedef float sums[ROWS][STRIP];
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

/* Adds the product of packed weights (K, ROWS) and x (K, N vectors), whose rows are `row` elements apart, to sum. */
#define TILE(name, vector, N) \
  static void name(const float *restrict packed, const float *restrict x, long row, long K, float *restrict sum) { \
    vector own[ROWS][N]; \
    for (int r = 0; r < ROWS; r++) for (int n = 0; n < N; n++) own[r][n] = ((vector *)(sum + r * STRIP))[n]; \
    for (long k = 0; k < K; k++, packed += ROWS, x += row) { \
      vector read[N]; \
      for (int n = 0; n < N; n++) read[n] = ((const vector *)x)[n]; \
      for (int r = 0; r < ROWS; r++) for (int n = 0; n < N; n++) own[r][n] += packed[r] * read[n]; \
    } \
    for (int r = 0; r < ROWS; r++) for (int n = 0; n < N; n++) ((vector *)(sum + r * STRIP))[n] = own[r][n]; \
  }
TILE(two_vectors, lanes, 2)
TILE(one_vector, lanes, 1)
TILE(four_columns, four, 1)
TILE(one_column, float, 1)

/* The same of any number of columns up to STRIP. */
static void multiply(const float *packed, const float *x, long row, long K, sums sum, long columns) {
  long b = 0;
  for (; b + 2 * LANES <= columns; b += 2 * LANES) two_vectors(packed, x + b, row, K, &sum[0][b]);
  for (; b + LANES <= columns; b += LANES) one_vector(packed, x + b, row, K, &sum[0][b]);
  for (; b + 4 <= columns; b += 4) four_columns(packed, x + b, row, K, &sum[0][b]);
  for (; b < columns; b++) one_column(packed, x + b, row, K, &sum[0][b]);
}

/* Packs rows (at most ROWS, the others become zero) of K numbers, which are `row` and `column` elements apart. */
static void pack(float *restrict to, const float *restrict from, long row, long column, long rows, long K) {
  for (long k = 0; k < K; k++, to += ROWS, from += column)
    if (rows < ROWS) for (long r = 0; r < ROWS; r++) to[r] = r < rows ? from[r * row] : 0;
    else if (row == 1) for (long r = 0; r < ROWS; r++) to[r] = from[r];
    else for (long r = 0; r < ROWS; r++) to[r] = from[r * row];
}

/* Turns x (F, B), whose rows are `row` elements apart, or zeros where it is 0, into strips: to (F / STRIP, all, STRIP),
   of whose `all` rows this fills the first B. */
static void turn(float *restrict to, const float *restrict x, long row, long F, long B, long all) {
  for (long f = 0; f < F; f++)
    for (long b = 0; b < B; b++) to[(f / STRIP * all + b) * STRIP + f % STRIP] = x ? x[f * row + b] : 0;
}

/* All steps of a stack in one call. Every field has 8 bytes: unrolled.fields_in_c hands over a list of them. T steps of
   B columns. A layer reads the h of the one below. The first one reads x, whose rows are T B long and whose step t
   begins at column t B; or, if the stack feeds back, what was `read` the step before, activation(out), where out is
   gain h of the top layer or weight (P, H) h + bias; or nothing. */
struct layer {
  const float *weight_ih, *weight_hh, *bias, *p, *h; /* (4 H, D), (4 H, H), (4 H), (3 H) or 0, (H, B) or 0 */
  float *hidden, *cell, *gates, *g;                  /* (T, H, B), (T + 1, H, B), (T, 4, H, B), (T, H, B) */
  float *d_z, *d_h, *d_c;                            /* (4 H, T B), (H, B), (H, B); 0 forward, as the next ones */
  float *d_weight_ih, *d_weight_hh, *d_bias;
  long D, H;
  float *packed, *packed_d_z, *turned; /* the memory of `prepare`: weights, d_z, hidden */
};
struct stack {
  long count, T, B, feeds_back, activation; /* activation: 0 none, 1 tanh, 2 sigmoid */
  const float *x, *weight, *bias;           /* x: (D, T B) or 0; (P, H) or 0; (P) or 0 */
  float *out, *read, *d_out;                /* (T, P, B) */
  long P;
  float *packed, *turned; /* the memory of `prepare`: weight, read or x */
  struct layer layers[];
};

/* Gives parts of the memory to the stack; returns how many floats that takes, which is asked for first, without any. */
long prepare(struct stack *s, float *memory) {
  long rows = (s->T + 1) * s->B, D = s->layers[0].D, used = 0;
  s->packed = memory + used, used += (s->P + ROWS) * (s->layers[s->count - 1].H + ROWS);
  s->turned = memory + used, used += (D + STRIP) * rows;
  for (struct layer *l = s->layers; l < s->layers + s->count; l++) {
    l->packed = memory + used, used += 4 * (l->H + ROWS) * (l->D + l->H + 2 * ROWS);
    if (l->d_z) l->packed_d_z = memory + used, used += (4 * l->H + ROWS) * rows;
    if (l->d_z) l->turned = memory + used, used += (l->H + STRIP) * rows;
  }
  return used;
}

/* Loops of one of n threads: over j, the first of each ROWS rows, in its share of all rows, the same one at each call;
   and over b, the first column of each strip. What others have written can be read after an omp barrier. */
#define OWN_ROWS(H) \
  for (long all_ = ((H) + ROWS - 1) / ROWS, j = all_ * own / n * ROWS, end = all_ * (own + 1) / n * ROWS; j < end; \
       j += ROWS)
#define STRIPS(B) for (long b = 0; b < (B); b += STRIP)
static inline long least(long a, long b) { return a < b ? a : b; }

static void forward_block(const struct stack *s, const struct layer *l, const float *x, long row, long t, long j) {
  long B = s->B, H = l->H, D = l->D, all = D + H, n = H * B;
  const float *h = t ? l->hidden + (t - 1) * n : l->h;
  STRIPS(B) {
    sums sum[4];
    long columns = least(STRIP, B - b), rows = least(ROWS, H - j);
    for (long gate = 0; gate < 4; gate++) {
      const float *packed = l->packed + (4 * j + gate * ROWS) * all;
      for (long r = 0; r < ROWS; r++)
        for (long k = 0; k < columns; k++) sum[gate][r][k] = r < rows ? l->bias[gate * H + j + r] : 0;
      if (x) multiply(packed, x + b, row, D, sum[gate], columns);
      if (h) multiply(packed + ROWS * D, h + b, B, H, sum[gate], columns);
    }
    for (long r = 0; r < rows; r++)
      forward_row(sum[0][r], sum[1][r], sum[2][r], sum[3][r], l->gates + 4 * t * n, l->g + t * n, l->cell + t * n,
                  l->cell + (t + 1) * n, l->hidden + t * n, l->p, H, B, j + r, (j + r) * B + b, columns);
  }
}

/* out and read, rows j to j + ROWS of step t. */
static void forward_output(const struct stack *s, const struct layer *top, float gain, long t, long j) {
  long B = s->B, P = s->P, H = top->H;
  const float *h = top->hidden + t * H * B;
  STRIPS(B) {
    sums sum;
    long columns = least(STRIP, B - b), rows = least(ROWS, P - j);
    for (long r = 0; r < ROWS; r++)
      for (long k = 0; k < columns; k++)
        sum[r][k] = r >= rows ? 0 : !s->weight ? gain * h[(j + r) * B + b + k] : s->bias ? s->bias[j + r] : 0;
    if (s->weight) multiply(s->packed + j * H, h + b, B, H, sum, columns);
    for (long r = 0; r < rows; r++) {
      float *out = s->out + (t * P + j + r) * B + b, *read = s->read + (t * P + j + r) * B + b;
      for (long k = 0; k < columns; k++) out[k] = sum[r][k];
      if (s->activation == 1) for (long k = 0; k < columns; k++) read[k] = tanhf(out[k]);
      if (s->activation == 2) for (long k = 0; k < columns; k++) read[k] = sigmoid(out[k]);
    }
  }
}

static void forward_part(const struct stack *s, float gain, long own, long n) {
  const struct layer *layers = s->layers, *top = layers + s->count - 1;
  for (const struct layer *l = layers; l <= top; l++)
    OWN_ROWS(l->H)
      for (long gate = 0, all = l->D + l->H; gate < 4; gate++) {
        float *to = l->packed + (4 * j + gate * ROWS) * all;
        if (l > layers || s->x || s->feeds_back)
          pack(to, l->weight_ih + (gate * l->H + j) * l->D, l->D, 1, l->H - j, l->D);
        pack(to + ROWS * l->D, l->weight_hh + (gate * l->H + j) * l->H, l->H, 1, l->H - j, l->H);
      }
  if (s->weight)
    OWN_ROWS(s->P) pack(s->packed + j * top->H, s->weight + j * top->H, top->H, 1, s->P - j, top->H);
  _Pragma("omp barrier")
  for (long t = 0; t < s->T; t++) {
    const float *x = s->x ? s->x + t * s->B : s->feeds_back && t ? s->read + (t - 1) * s->P * s->B : 0;
    long row = s->x ? s->T * s->B : s->B;
    for (const struct layer *l = layers; l <= top; l++) {
      OWN_ROWS(l->H) forward_block(s, l, x, row, t, j);
      _Pragma("omp barrier")
      x = l->hidden + t * l->H * s->B, row = s->B;
    }
    if (s->feeds_back) {
      OWN_ROWS(s->P) forward_output(s, top, gain, t, j);
      _Pragma("omp barrier")
    }
  }
}

static void backward_block(const struct stack *s, const struct layer *l, int is_top, float gain, long t, long j) {
  long T = s->T, B = s->B, H = l->H, n = H * B, P = s->P;
  const struct layer *above = l + 1;
  STRIPS(B) {
    sums sum;
    long columns = least(STRIP, B - b), rows = least(ROWS, H - j);
    const float *d_out = is_top && s->d_out && !(s->feeds_back && s->weight) ? s->d_out + t * n + j * B + b : 0;
    for (long r = 0; r < ROWS; r++)
      for (long k = 0; k < columns; k++)
        sum[r][k] =
            r >= rows ? 0 : (t + 1 < T ? 0 : l->d_h[(j + r) * B + b + k]) + (d_out ? gain * d_out[r * B + k] : 0);
    if (t + 1 < T) multiply(l->packed + j * 4 * H, l->d_z + (t + 1) * B + b, T * B, 4 * H, sum, columns);
    if (!is_top)
      multiply(above->packed + ((above->H + ROWS - 1) / ROWS * ROWS + j) * 4 * above->H, above->d_z + t * B + b, T * B,
               4 * above->H, sum, columns);
    else if (s->weight) multiply(s->packed + j * P, s->d_out + t * P * B + b, B, P, sum, columns);
    for (long r = 0; r < rows; r++)
      backward_row(l->gates + 4 * t * n, l->g + t * n, l->cell + t * n, sum[r], l->d_c, l->d_z + t * B, T * B, l->p, H,
                   B, j + r, (j + r) * B + b, b, columns);
  }
}

/* Adds to d_out of step t what arrives through the first layer's next step. */
static void backward_output(const struct stack *s, const struct layer *l, long t, long j) {
  long T = s->T, B = s->B, P = s->P;
  STRIPS(B) {
    sums sum = {{0}};
    long columns = least(STRIP, B - b), rows = least(ROWS, P - j);
    multiply(l->packed + ((l->H + ROWS - 1) / ROWS * ROWS + j) * 4 * l->H, l->d_z + (t + 1) * B + b, T * B, 4 * l->H,
             sum, columns);
    for (long r = 0; r < rows; r++) {
      float *d_out = s->d_out + (t * P + j + r) * B + b, *read = s->read + (t * P + j + r) * B + b;
      for (long k = 0; k < columns; k++) {
        float v = read[k], slope = s->activation == 0 ? 1 : s->activation == 1 ? 1 - v * v : v * (1 - v);
        d_out[k] += sum[r][k] * slope;
      }
    }
  }
}

/* Before the steps backward: packs the weights, and turns what was read, one row after the initial state's. */
static void start_backward(const struct stack *s, long own, long n) {
  const struct layer *layers = s->layers, *top = layers + s->count - 1;
  long T = s->T, B = s->B, all = (T + 1) * B;
  for (const struct layer *l = layers; l <= top; l++) {
    OWN_ROWS(l->H) pack(l->packed + j * 4 * l->H, l->weight_hh + j, 1, l->H, l->H - j, 4 * l->H);
    float *to = l->packed + (l->H + ROWS - 1) / ROWS * ROWS * 4 * l->H;
    if (l > layers || s->feeds_back)
      OWN_ROWS(l->D) pack(to + j * 4 * l->H, l->weight_ih + j, 1, l->D, l->D - j, 4 * l->H);
    if (own == 0) turn(l->turned, l->h, B, l->H, B, all);
  }
  if (s->weight) OWN_ROWS(top->H) pack(s->packed + j * s->P, s->weight + j, 1, top->H, top->H - j, s->P);
  if (own == 0 && s->feeds_back) turn(s->turned, 0, 0, s->P, B, all);
  for (long t = T * own / n; t < T * (own + 1) / n; t++) {
    for (const struct layer *l = layers; l <= top; l++)
      turn(l->turned + (t + 1) * B * STRIP, l->hidden + t * l->H * B, B, l->H, B, all);
    if (s->feeds_back) turn(s->turned + (t + 1) * B * STRIP, s->read + t * s->P * B, B, s->P, B, all);
    else if (s->x) turn(s->turned + (t + 1) * B * STRIP, s->x + t * B, T * B, layers->D, B, all);
  }
}

/* The gradient (4 H, D) of a weight, from d_z and what it has read in all steps, (D / STRIP, (T + 1) B, STRIP). */
static void weight_gradient(float *d_weight, const float *read, const struct layer *l, long D, long T, long B, long own,
                            long n) {
  for (long d = 0; d < D; d += STRIP)
    OWN_ROWS(4 * l->H) {
      sums sum = {{0}};
      long columns = least(STRIP, D - d), rows = least(ROWS, 4 * l->H - j);
      multiply(l->packed_d_z + j * T * B, read + d * (T + 1) * B, STRIP, T * B, sum, columns);
      for (long r = 0; r < rows; r++)
        for (long k = 0; k < columns; k++) d_weight[(j + r) * D + d + k] = sum[r][k];
    }
}

static void gradients(const struct stack *s, const struct layer *l, long own, long n, int is_first) {
  long K = s->T * s->B, next = s->B * STRIP; /* what is read at step t lies one row after h of step t - 1 */
  OWN_ROWS(4 * l->H) {
    float *packed = l->packed_d_z + j * K, sum[ROWS] = {0};
    pack(packed, l->d_z + j * K, K, 1, 4 * l->H - j, K);
    for (long k = 0; k < K; k++) for (long r = 0; r < ROWS; r++) sum[r] += packed[k * ROWS + r];
    for (long r = 0; r < least(ROWS, 4 * l->H - j); r++) l->d_bias[j + r] = sum[r];
  }
  const float *read = !is_first ? (l - 1)->turned + next : s->feeds_back ? s->turned : s->turned + next;
  if (!is_first || s->feeds_back || s->x) weight_gradient(l->d_weight_ih, read, l, l->D, s->T, s->B, own, n);
  weight_gradient(l->d_weight_hh, l->turned, l, l->H, s->T, s->B, own, n);
}

static void backward_part(const struct stack *s, float gain, long own, long n) {
  const struct layer *layers = s->layers, *top = layers + s->count - 1;
  start_backward(s, own, n);
  _Pragma("omp barrier")
  for (long t = s->T - 1; t >= 0; t--) {
    if (s->feeds_back && t + 1 < s->T) {
      OWN_ROWS(s->P) backward_output(s, layers, t, j);
      _Pragma("omp barrier")
    }
    for (const struct layer *l = top; l >= layers; l--) {
      OWN_ROWS(l->H) backward_block(s, l, l == top, gain, t, j);
      _Pragma("omp barrier")
    }
  }
  _Pragma("omp barrier")
  for (const struct layer *l = layers; l <= top; l++) gradients(s, l, own, n, l == layers);
}

#define ALL_STEPS(name, call) \
  void name(const struct stack *s, float gain) { \
    long work = 0; \
    for (long l = 0; l < s->count; l++) work += 4 * s->layers[l].H * (s->layers[l].D + s->layers[l].H) * s->B; \
    _Pragma("omp parallel if (work >= THREADED)") call(s, gain, omp_get_thread_num(), omp_get_num_threads()); \
  }
ALL_STEPS(forward_stack, forward_part)
ALL_STEPS(backward_stack, backward_part)

/* Single steps of one layer, for products that torch makes. Gives each thread its rows, j to end. */
#define SHARED(call) \
  const struct layer *l = s->layers; \
  long H = l->H, T = s->T, B = s->B; \
  _Pragma("omp parallel if (H * B >= SMALL)") { \
    long n = omp_get_num_threads(), own = omp_get_thread_num(), j = H * own / n, end = H * (own + 1) / n; call; }

/* Of the sum of product (4 H, B), or 0, and add (4 H, B), whose rows are add_row and whose columns are add_column
   elements apart. */
static void forward_rows(const struct layer *l, long t, long B, const float *product, const float *add, long add_row,
                         long add_column, long j, long end) {
  float sum[4][WIDE];
  for (long H = l->H, size = H * B; j < end; j++)
    for (long first = 0; first < B; first += WIDE) {
      long wide = least(WIDE, B - first), at = j * B + first;
      for (long gate = 0; gate < 4; gate++) {
        const float *own = product + gate * size + at, *more = add + (gate * H + j) * add_row + first * add_column;
        if (add_column == 0) for (long k = 0; k < wide; k++) sum[gate][k] = *more;
        else if (add_column == 1) for (long k = 0; k < wide; k++) sum[gate][k] = more[k];
        else for (long k = 0; k < wide; k++) sum[gate][k] = more[k * add_column];
        if (product) for (long k = 0; k < wide; k++) sum[gate][k] += own[k];
      }
      forward_row(sum[0], sum[1], sum[2], sum[3], l->gates + 4 * t * size, l->g + t * size, l->cell + t * size,
                  l->cell + (t + 1) * size, l->hidden + t * size, l->p, H, B, j, at, wide);
    }
}

void forward(const struct stack *s, long t, const float *product, const float *add, long add_row, long add_column) {
  SHARED((void)T; forward_rows(l, t, B, product, add, add_row, add_column, j, end))
}

static void backward_rows(const struct layer *l, long t, long T, long B, long j, long end) {
  for (long H = l->H, size = H * B; j < end; j++)
    backward_row(l->gates + 4 * t * size, l->g + t * size, l->cell + t * size, l->d_h + j * B, l->d_c, l->d_z + t * B,
                 T * B, l->p, H, B, j, j * B, 0, B);
}

void backward(const struct stack *s, long t) {
  SHARED(backward_rows(l, t, T, B, j, end))
}
