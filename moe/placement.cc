#include "moe/placement.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace cadre::moe {
namespace {

constexpr double kWorthMoving = 0.98;        // of the load before
constexpr double kWorthStartingOver = 0.99;  // of what single swaps reach

using Loads = std::vector<double>;
using Source = std::vector<int>;

Loads placed(const Loads& loads, const Source& source) {
  Loads result;
  for (const int expert : source) result.push_back(loads[size_t(expert)]);
  return result;
}

Loads by_rank(const Loads& loads, int ranks) {
  assert(loads.size() % size_t(ranks) == 0);
  Loads sums(size_t(ranks), 0.0);
  for (size_t e = 0; e < loads.size(); ++e) sums[e / (loads.size() / size_t(ranks))] += loads[e];
  return sums;
}

// Swaps two experts of one slot as long as that lowers the sum of the ranks' squared loads, the best pair first.
Source improved(const Loads& loads, int ranks, Source source) {
  const size_t slots = loads.size() / size_t(ranks);
  Loads sums = by_rank(placed(loads, source), ranks);
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  for (;;) {
    double best = -1e-12 * total * total;  // less is rounding
    size_t from = 0, to = 0;
    for (size_t a = 0; a < loads.size(); ++a) {
      for (size_t b = a + slots; b < loads.size(); b += slots) {
        const double more = loads[size_t(source[a])] - loads[size_t(source[b])];
        const double change = 2 * more * (more - (sums[a / slots] - sums[b / slots]));
        if (change >= best) continue;
        best = change;
        from = a;
        to = b;
      }
    }
    if (from == to) return source;
    const double more = loads[size_t(source[from])] - loads[size_t(source[to])];
    sums[from / slots] -= more;
    sums[to / slots] += more;
    std::swap(source[from], source[to]);
  }
}

// Slots in falling order of what their experts differ by; in each the fullest expert goes to the emptiest rank so far.
Source from_nothing(const Loads& loads, int ranks) {
  const int slots = int(loads.size()) / ranks;
  const auto load = [&](int slot, int rank) { return loads[size_t(rank * slots + slot)]; };
  Loads spread;
  for (int slot = 0; slot < slots; ++slot) {
    double least = load(slot, 0), most = least;
    for (int rank = 1; rank < ranks; ++rank) {
      least = std::min(least, load(slot, rank));
      most = std::max(most, load(slot, rank));
    }
    spread.push_back(most - least);
  }
  Source order(static_cast<size_t>(slots)), source(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return spread[size_t(a)] > spread[size_t(b)]; });
  Loads sums(size_t(ranks), 0.0);
  for (const int slot : order) {
    Source full(static_cast<size_t>(ranks)), empty(static_cast<size_t>(ranks));
    std::iota(full.begin(), full.end(), 0);
    std::iota(empty.begin(), empty.end(), 0);
    std::stable_sort(full.begin(), full.end(), [&](int a, int b) { return load(slot, a) > load(slot, b); });
    std::stable_sort(empty.begin(), empty.end(),
                     [&](int a, int b) { return sums[size_t(a)] < sums[size_t(b)]; });
    for (size_t i = 0; i < full.size(); ++i) {
      source[size_t(empty[i] * slots + slot)] = full[i] * slots + slot;
      sums[size_t(empty[i])] += load(slot, full[i]);
    }
  }
  return source;
}

}  // namespace

double fullest_rank(const std::vector<double>& loads, int ranks) {
  const Loads sums = by_rank(loads, ranks);
  const double total = std::accumulate(sums.begin(), sums.end(), 0.0);
  return total > 0 ? *std::max_element(sums.begin(), sums.end()) * ranks / total : 1;
}

std::vector<int> place_by_load(const std::vector<double>& loads, int ranks) {
  Source same(loads.size());
  std::iota(same.begin(), same.end(), 0);
  const Source swapped = improved(loads, ranks, same);
  const Source anew = improved(loads, ranks, from_nothing(loads, ranks));
  const auto fullest = [&](const Source& source) { return fullest_rank(placed(loads, source), ranks); };
  const Source& best = fullest(anew) < kWorthStartingOver * fullest(swapped) ? anew : swapped;
  return fullest(best) < kWorthMoving * fullest(same) ? best : same;
}

}  // namespace cadre::moe
