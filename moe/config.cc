#include "moe/config.h"

#include "moe/balance_loss.h"
#include "moe/router.h"
#include "parallel/base/errors.h"

namespace cadre::moe {
namespace {

// Makes the router and the loss once, so that a typo in their sections is found before anything starts.
void check_variants(const base::Section& section, const MoeConfig& config) {
  const auto router = make_router<float>(
      config, {.dim = 1, .max_tokens = 1, .num_experts = config.num_experts, .top_k = config.top_k});
  const auto balance = make_balance_loss<float>(
      config, {.num_experts = config.num_experts, .top_k = config.top_k, .max_tokens = 1});
  // Such routers give every expert the same load, and their slots have no order over a token's experts.
  if (!router->causal() && balance->active())
    section.reject(
        "balance",
        "experts that choose their tokens are balanced by construction; set balance: {name: none}");
  if (!router->causal() && config.capacity_factor > 0)
    section.reject("capacity_factor",
                   "experts that choose their tokens have their own capacity; set it to 0");
}

}  // namespace

const char* name_of(DispatchKind kind) {
  static constexpr const char* kNames[] = {"auto", "exchange", "gather", "peer", "copy"};
  return kNames[int(kind)];
}

const char* name_of(ExpertShares shares) {
  static constexpr const char* kNames[] = {"auto", "experts", "width"};
  return kNames[int(shares)];
}

bool share_widths(const MoeConfig& config, int ranks, bool on_gpus) {
  if (ranks == 1) return false;
  if (config.shares != ExpertShares::kAuto) return config.shares == ExpertShares::kWidth;
  // Loads of few experts differ most, and are few rows to read twice. Parts are whole tiles of the products.
  constexpr int kFewExperts = 8, kColumns = 128;
  const bool gathers = config.dispatch != DispatchKind::kExchange && config.dispatch != DispatchKind::kPeer;
  return on_gpus && gathers && config.num_experts < kFewExperts * ranks &&
         config.width % (ranks * kColumns) == 0;
}

MoeConfig read_moe(base::Section section) {
  MoeConfig c;
  c.num_experts = int(section.integer("num_experts", c.num_experts, {.min = 1, .max = 65536}));
  c.top_k = int(section.integer("top_k", c.top_k, {.min = 1, .max = 65536}));
  if (c.top_k > c.num_experts)
    section.reject("top_k",
                   fmt::format("found {}, expected at most num_experts = {}", c.top_k, c.num_experts));
  c.width = int(section.integer("width", c.width, {.min = 1, .max = 1 << 24}));
  c.num_shared = int(section.integer("num_shared", c.num_shared, {.min = 0, .max = 1024}));
  c.capacity_factor = section.number("capacity_factor", c.capacity_factor, {.min = 0});
  const std::string drop = section.choice("drop", "lowest_probability", {"lowest_probability", "position"});
  c.drop = drop == "position" ? DropPolicy::kPosition : DropPolicy::kLowestProbability;
  c.z_loss = section.number("z_loss", c.z_loss, {.min = 0});
  const std::string dispatch =
      section.choice("dispatch", "auto", {"auto", "exchange", "gather", "peer", "copy"});
  for (const DispatchKind kind :
       {DispatchKind::kExchange, DispatchKind::kGather, DispatchKind::kPeer, DispatchKind::kCopy})
    if (dispatch == name_of(kind)) c.dispatch = kind;
  const std::string shares = section.choice("shares", "auto", {"auto", "experts", "width"});
  for (const ExpertShares kind : {ExpertShares::kExperts, ExpertShares::kWidth})
    if (shares == name_of(kind)) c.shares = kind;
  const std::string rebalance = section.text("rebalance", "auto");
  if (rebalance != "auto") c.rebalance = section.integer("rebalance", {.min = 0});
  const base::Section router = section.section("router"), balance = section.section("balance");
  // A missing section leaves a null node: YAML nodes that do not exist cannot be assigned.
  if (router.node().IsDefined()) c.router = router.node();
  if (balance.node().IsDefined()) c.balance = balance.node();
  c.source = section.source();
  section.finish();
  check_variants(section, c);
  return c;
}

}  // namespace cadre::moe
