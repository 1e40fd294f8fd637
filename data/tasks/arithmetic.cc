// Expressions over whole numbers. Level 1: two numbers below 10, + and -. Each level adds size or length; * comes at
// level 3, one pair of parentheses at level 5.
#include "data/tasks/makers.h"

namespace cadre::data {
namespace {

struct Shape {
  int operands;
  int64_t largest;
  int operators;  // the first so many of + - *
  bool parentheses;
};
constexpr Shape kShapes[] = {{2, 9, 2, false},  {2, 99, 2, false}, {3, 20, 3, false},
                             {4, 99, 3, false}, {4, 20, 3, true},  {6, 99, 3, true}};

int64_t apply(char op, int64_t a, int64_t b) {
  return op == '+' ? a + b : op == '-' ? a - b : a * b;
}

// Value of terms [first, last] with * before + and -.
int64_t value(const std::vector<int64_t>& terms, const std::string& ops, size_t first, size_t last) {
  int64_t sum = 0, product = terms[first];
  char pending = '+';
  for (size_t i = first; i < last; ++i) {
    if (ops[i] == '*') {
      product *= terms[i + 1];
      continue;
    }
    sum = apply(pending, sum, product);
    pending = ops[i];
    product = terms[i + 1];
  }
  return apply(pending, sum, product);
}

class Arithmetic final : public Task {
 public:
  int levels() const override { return int(std::size(kShapes)); }

  Problem make(Draws& draws, int level) const override {
    const Shape& shape = kShapes[level - 1];
    std::vector<int64_t> terms;
    std::string ops;
    for (int i = 0; i < shape.operands; ++i) {
      terms.push_back(draws.between(0, shape.largest));
      if (i > 0) ops += "+-*"[draws.below(shape.operators)];
    }
    const size_t n = terms.size();
    // Terms open .. close stand in parentheses; never all of them, so that they matter or at least look like it.
    const size_t open = shape.parentheses ? size_t(draws.below(int64_t(n) - 1)) : n;
    const size_t close = shape.parentheses ? open + 1 : n;
    std::string text;
    for (size_t i = 0; i < n; ++i) {
      if (i == open) text += '(';
      text += std::to_string(terms[i]);
      if (i == close) text += ')';
      if (i + 1 < n) text += std::string(" ") + ops[i] + " ";
    }
    if (shape.parentheses) {
      terms[open] = apply(ops[open], terms[open], terms[close]);
      terms.erase(terms.begin() + int64_t(close));
      ops.erase(open, 1);
    }
    return {"Compute " + text + ".", std::to_string(value(terms, ops, 0, terms.size() - 1)), 0};
  }
};

}  // namespace

std::unique_ptr<Task> make_arithmetic() {
  return std::make_unique<Arithmetic>();
}

}  // namespace cadre::data
