// What selectors share: budgets in tokens, and the ways over which a budget is spent.
#pragma once

#include <vector>

#include "data/corpus.h"

namespace cadre::data {

// Positions to train on of one unit.
double trainable(const Corpus& units, int64_t unit);
double trainable(const Corpus& units, const std::vector<int64_t>& documents);

// Units by domain, or all of them in one list.
std::vector<std::vector<int64_t>> scopes_of(const Corpus& units, bool by_domain);

// The first units of `order` until they hold `keep` of its tokens (the one that crosses the mark is in when more than
// half of it is needed), at least one, appended to `out`.
void take_first(const Corpus& units, const std::vector<int64_t>& order, double keep,
                std::vector<int64_t>& out);

// Sum over score files of rate * column, the rates scaled to sum 1, by column: (columns, units). All files have the same
// columns. No rates: all alike.
std::vector<std::vector<double>> weighted_columns(const Corpus& units, const std::vector<std::string>& names,
                                                  std::vector<double> rates);

}  // namespace cadre::data
