/* The pointwise half of an LSTM step, forward and backward. compiled.py compiles it, unrolled.py calls it. */
__attribute__((simd("notinbranch"))) float expf(float);
__attribute__((simd("notinbranch"))) float tanhf(float);
enum { WIDE = 256, SMALL = 8192 }; /* elements of a buffer; from SMALL elements on, two threads took 0.6 of the time */
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
int omp_get_num_threads(void), omp_get_thread_num(void);

void forward(const float *product, const float *add, long add_row, long add_column, float *z, float *g,
             const float *before, float *c, float *h, const float *p, long H, long B, int maps) {
  SHARED(forward_lines, product, add, add_row, add_column, z, g, before, c, h, p)
}

void backward(const float *z, const float *g, const float *before, const float *c, const float *d_h, float *d_c,
              float *d, long d_line, const float *p, long H, long B, int maps) {
  SHARED(backward_lines, z, g, before, c, d_h, d_c, d, d_line, p)
}
