// Points of the simplex {w >= 0, sum 1} within bounds, and convex minimisation over them.
#pragma once

#include <functional>
#include <vector>

namespace cadre::data {

struct Bounds {  // sum lo <= 1 <= sum hi; lo <= hi
  std::vector<double> lo, hi;
};
// [0, 1] for domains with text, [0, 0] for the others.
Bounds text_bounds(const std::vector<int64_t>& domain_tokens);

// clamp(c w, lo, hi) with the c that makes the sum 1, by bisection: keeps ratios. w > 0 where hi > 0.
std::vector<double> scale_into(const std::vector<double>& w, const Bounds& bounds);
// The nearest point: clamp(w + c, lo, hi).
std::vector<double> project_onto(const std::vector<double>& w, const Bounds& bounds);

// Softmax over the entries where `active`; 0 elsewhere. Safe for any finite logits.
std::vector<double> softmax(const std::vector<double>& logits, const std::vector<bool>& active);

// f and its gradient at w.
using Objective = std::function<double(const std::vector<double>& w, std::vector<double>& gradient)>;
// Minimises a convex f by projected gradient steps with backtracking until no step helps (at most `iterations`).
std::vector<double> minimise_on_simplex(const Objective& f, const Bounds& bounds, std::vector<double> start,
                                        int iterations = 20000);

// Minimises a smooth f without constraints: L-BFGS with ten pairs and backtracking (Nocedal & Wright 2006, Alg.
// 7.5). Returns the point reached.
std::vector<double> minimise_smooth(const Objective& f, std::vector<double> start, int iterations = 200);

}  // namespace cadre::data
