#include "trainer/run/text_gradient.h"

#include <vector>

namespace cadre::trainer {

void differentiate_text(ModelState& model, const DocumentRows& rows,
                        const std::function<double(const Batch&, size_t)>& weight, device::AnyTap* tap,
                        const std::function<void(const Batch&)>& after) {
  const int64_t sequences = model.config.train.micro_batch;
  std::vector<Real> dlogp;
  model.decoder.begin_step();
  for (int64_t i = 0; i < rows.micro_batches(sequences, 1); ++i) {
    const Batch batch = rows.micro_batch(i, sequences, 0, 1);
    model.store.start_grads(model.queue, i == 0);
    model.decoder.forward(batch, true);
    dlogp.assign(size_t(batch.num_tokens()), 0);
    for (size_t t = 0; t < dlogp.size(); ++t) {
      if (batch.loss_mask[t] != 0) dlogp[t] = Real(-weight(batch, t));
    }
    model.decoder.backward(
        {dlogp.data(), {batch.num_tokens()}}, {},
        [&](int bucket) { model.store.collect_grads(model.queue, bucket, i == 0); }, tap);
    if (after) after(batch);
  }
  model.queue.wait();
}

}  // namespace cadre::trainer
