// The rules of online selection as plain functions; who computes the losses is trainer/run's business.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/base/batch.h"

namespace cadre::data {

// Tokens that are kept of a sequence with `trained` tokens: ceil(keep * trained), at least one where there is any. Known
// before any loss is, so that a batch's counts need no exchange.
int64_t kept_tokens(int64_t trained, double keep);

// Rho-1 (arXiv 2404.07965): in every sequence the tokens with the largest excess (model's nats minus the reference's)
// stay in loss_mask, the others leave it; ties go to the earlier token. By sequence and not over the batch: the result
// then depends on neither ranks nor micro-batches, and no domain loses its share.
void keep_tokens(std::span<const double> excess, double keep, Batch& batch);

// RHO-loss (arXiv 2206.07137): of each domain's candidate sequences those with the largest mean excess. `counts` says
// how many of each domain stay; ties go to the earlier one. Returns indices, rising.
std::vector<int64_t> keep_sequences(std::span<const double> excess, std::span<const int32_t> domain,
                                    const std::vector<int64_t>& counts);

}  // namespace cadre::data
