// The gradient of a weighted sum of tokens' nats over whole documents: what scores of documents and single steps are made of.
#pragma once

#include <functional>

#include "parallel/device/tap.h"
#include "trainer/run/document_rows.h"
#include "trainer/run/model_state.h"

namespace cadre::trainer {

// Into the store's gradients, which it begins anew; done when it returns. weight(batch, t): nats of token t of the batch
// count so much; not asked for tokens that are not trained. Layers' own losses stay out, so that gradients of document
// sets add up. tap: as the backward pass takes it, may be null; after(batch): each micro-batch has gone backward. For one
// rank.
void differentiate_text(ModelState& model, const DocumentRows& rows,
                        const std::function<double(const Batch&, size_t)>& weight,
                        device::AnyTap* tap = nullptr, const std::function<void(const Batch&)>& after = {});

}  // namespace cadre::trainer
