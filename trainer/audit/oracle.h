// The one-step oracle: does the influence of a group of documents say what a real optimizer step with them does? A
// group is added to a fixed background batch, one AdamW step is taken from a saved moment of a run, and the loss on
// held-out text is compared with the same step without the group. To first order, with n tokens, g mean gradients, D =
// P G (the optimizer's direction), c the clip coefficient and s Adam's share of a new gradient in its first moment,
//   loss(b) - loss(b + g) = lr s c n_g / (n_b + n_g) <D', g_g - g_b>,
// where D' = D - u <D, u> with u the unit background gradient when it is clipped (the derivative of c), else D.
#pragma once

#include <functional>
#include <vector>

#include "trainer/audit/journal.h"
#include "trainer/audit/one_step.h"
#include "trainer/audit/oracle_report.h"

namespace cadre::audit {

struct OracleConfig {
  std::vector<int64_t> sizes = {256};  // documents of a group
  int64_t groups = 200;                // of each size
  int64_t background = 256;            // documents
  int64_t passage = 64;  // documents are cut into passages of so many tokens, each a document; 0: whole
  std::vector<double> lr = {0.1, 1, 10};  // times the run's learning rate at that moment
  int64_t seed = 1;
};
OracleConfig read_oracle(base::Section section);

// Measures what the journal lacks. `keep_going` is asked before every group; when it says no, returns false with the
// rest undone.
bool measure_oracle(const OracleConfig& config, trainer::TrainState& state, Journal& journal,
                    const std::function<bool()>& keep_going, OracleResult& result);

}  // namespace cadre::audit
