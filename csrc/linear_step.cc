// A linear map of a few rows; compiled once for every instruction set (ISA names it).
#include "few_rows.h"
#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

// A task is kStepRows outputs of every row.
extern "C" void JOIN(longstate_linear_step_, ISA)(const LinearStep* p, int64_t begin, int64_t end) {
  const int64_t last = end * kStepRows < p->outputs ? end * kStepRows : p->outputs;
  few_rows(p->batch, p->inputs, begin * kStepRows, last, p->weight, p->bias, p->x, p->inputs, p->y, p->outputs);
}
