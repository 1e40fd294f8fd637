// Slots of several ranks against the CPU: a part of the experts of each rank, or all.
#pragma once

#include <algorithm>

#include "tests/moe/cuda/router_cases.h"

namespace cadre::moe {

template <class T, class Sides>
void expect_rank_slots_match(Sides& sides) {
  struct Case {
    int64_t ranks, experts, first, local;
  };
  for (const Case& c : {Case{2, 8, 4, 4}, {2, 8, 0, 8}, {4, 8, 2, 2}, {4, 64, 0, 64}, {1, 5, 0, 5}}) {
    constexpr int64_t kWidth = 300, kTokens = 150;
    // The last rank has no slots at all, of others some experts have none.
    std::vector<double> offsets, tokens;
    for (int64_t r = 0; r < c.ranks; ++r) {
      double at = 0;
      for (int64_t e = 0; e <= c.experts; ++e) {
        offsets.push_back(at);
        if (r + 1 < c.ranks || c.ranks == 1)
          at = std::min(290.0, at + double((7 * e + 3 * r) % 5 * 290 / (2 * c.experts)));
      }
      for (int64_t a = 0; a < kWidth; ++a) tokens.push_back(double((a * 37 + r) % kTokens));
    }
    const int64_t most = c.ranks * kWidth;
    const auto body = [&]<class X>(Side<X>& s) {
      using W = device::wide_t<X>;
      const auto table = s.template put<int64_t, 2>(offsets, {c.ranks, c.experts + 1});
      const auto token = s.template put<int32_t, 2>(tokens, {c.ranks, kWidth});
      const auto gate = s.template put<W, 2>(numbers<float>(size_t(most), 3), {c.ranks, kWidth});
      const SlotPlaces<X> places = {.offsets = s.template poison<int64_t, 1>({c.local + 1}),
                                    .row = s.template poison<int32_t, 1>({most}),
                                    .source = s.template poison<int32_t, 1>({most}),
                                    .gate = s.template poison<W, 1>({most}),
                                    .rank_begins = s.template poison<int64_t, 2>({c.ranks + 1, c.local})};
      s.table.place_slots(s.queue,
                          {.first_expert = int(c.first),
                           .max_tokens = kTokens,
                           .token = token,
                           .gate = gate,
                           .offsets = table},
                          places);
      const auto home = s.template put<W, 2>(std::vector<double>(size_t(most), 0.0), {c.ranks, kWidth});
      s.table.scatter_gates(s.queue, places.gate, places.source, home);
      Results results = {s.get(places.offsets), s.get(places.row),         s.get(places.source),
                         s.get(places.gate),    s.get(places.rank_begins), s.get(home)};
      const auto own = table[0];
      for (const auto entry :
           {s.table.sum_gates, c.experts % c.ranks == 0 ? s.table.collect_gates : s.table.sum_gates}) {
        const auto gates = s.template put<W, 1>(std::vector<double>(kWidth, 0.0), {kWidth});
        entry(s.queue, gate, device::View<const int64_t, 1>(own.data(), {c.experts + 1}), gates);
        results.push_back(s.get(gates));
      }
      return results;
    };
    const Results gpu = sides.on_gpu(body), cpu = sides.on_cpu(body);
    ASSERT_EQ(gpu.size(), cpu.size());
    for (size_t i = 0; i < gpu.size(); ++i)
      expect_close(gpu[i], cpu[i], i == 6 ? 1e-6 : 0,
                   fmt::format("{} ranks, {} experts from {}, result {}", c.ranks, c.local, c.first, i));
    expect_same(sides.on_gpu(body), gpu);
  }
}

}  // namespace cadre::moe
