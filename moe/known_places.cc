#include "moe/known_places.h"

#include <algorithm>
#include <limits>

#include "parallel/base/errors.h"

namespace cadre::moe {

void require_known_places(const DispatchShape& shape, int64_t ranks, const char* name) {
  require(shape.hint_width == 0, ExitCode::kUsage,
          "moe.router: this router gives hints to experts, which moe.dispatch: {} does not carry; set "
          "mesh.ep: 1, "
          "or on the CPU moe.dispatch: exchange",
          name);
  require(std::max(ranks * shape.max_slots, ranks * shape.max_tokens) <= std::numeric_limits<int32_t>::max(),
          ExitCode::kUsage,
          "a micro-batch of {} tokens on {} ranks has more than 2^31 slots; lower train.micro_batch",
          shape.max_tokens, ranks);
}

int64_t experts_of_a_rank(const DispatchShape& shape, int64_t ranks) {
  return shape.widths ? shape.num_experts : shape.num_experts / ranks;
}

int first_expert(const DispatchShape& shape, int64_t ranks, int rank) {
  return shape.widths ? 0 : int(rank * experts_of_a_rank(shape, ranks));
}

int64_t most_slots(const DispatchShape& shape, int64_t ranks) {
  // A token has at most one slot for each expert of this rank.
  return ranks * std::min(shape.max_slots, shape.max_tokens * experts_of_a_rank(shape, ranks));
}

}  // namespace cadre::moe
