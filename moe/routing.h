// What a router decides for one micro-batch: a list of slots (token, expert, gate), sorted by expert and,
// within one, by token. Top-k routers give K slots to each routed token; expert choice gives any number.
// Padding gets none.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/device/view.h"

namespace cadre::moe {

template <class T>
struct Routing {
  using W = device::wide_t<T>;
  int64_t num_tokens = 0;   // T, padding included
  int64_t num_experts = 0;  // E, global
  int64_t num_real = 0;     // tokens that are not padding
  // A, as far as the host knows: expert_offsets[E] on the device is the number of slots, and it is below
  // num_slots only after capacity removed some. Slots behind the last one have token -1 and gate 0.
  int64_t num_slots = 0;

  // (T, E) scores normalised over E, the p of the balance losses; rows of padding are 0.
  device::View<W, 2> probs;
  device::View<int64_t, 1> expert_offsets;  // (E + 1) slots of expert e are [offsets[e], offsets[e + 1])
  device::View<int32_t, 1> slot_token;      // (A max)
  device::View<W, 1> slot_gate;             // (A max) weight g of the slot's output
  // (E + 1) tokens that chose each expert, before capacity dropped any: the counts of f. Then the slots that
  // capacity removed.
  device::View<int64_t, 1> tally;
  device::View<int64_t, 1> chosen() const { return tally.rows(0, num_experts); }
  // (T, K) experts by token, before capacity; -1 for padding; empty for expert choice.
  device::View<int32_t, 2> choice;
  // Slots of each token, rising: (T + 1) and (A max), see MoeKernels::slots_by_row. Empty where the router makes none.
  device::View<int32_t, 1> row_offsets, row_slots;
  // Optional first activation of each slot, computed by the router (Autonomy of Experts): (A max, r); empty
  // otherwise.
  device::View<T, 2> slot_hint;
};

// Gradients that flow back into a router.
template <class T>
struct RoutingGrad {
  using W = device::wide_t<T>;
  device::View<const W, 1> slot_gate;  // (A) dL/dg
  device::View<const W, 2> probs;      // (T, E) dL/dp from the balance loss; empty when there is none
  device::View<const T, 2> slot_hint;  // (A, r) when the router gave hints
  double z_scale = 0;                  // dL_z/dlse^2 a token: z_loss coefficient / global real tokens
};

}  // namespace cadre::moe
