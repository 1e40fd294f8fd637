// Dispatch and combine alone, with experts that do something simple.
#include <algorithm>
#include <cmath>
#include <mutex>

#include "moe/dispatch.h"
#include "parallel/base/errors.h"
#include "tests/moe/rig.h"

namespace cadre::moe {
namespace {

constexpr int64_t kTokens = 9, kDim = 3, kHint = 2;
constexpr int kExperts = 4;

// A rank's random routing: any set of experts for a token, the empty one too; gates sum to 1 when it is not
// empty.
struct RandomRouting {
  explicit RandomRouting(uint64_t key, int64_t num_tokens = kTokens) {
    const base::Philox random(key);
    offsets.push_back(0);
    std::vector<double> total(kTokens);
    for (int e = 0; e < kExperts; ++e) {
      for (int64_t t = 0; t < num_tokens; ++t) {
        if (random.uniform(e * kTokens + t) > 0.4) continue;
        tokens.push_back(int32_t(t));
        gates.push_back(0.1 + random.uniform(e * kTokens + t, 1));
        total[t] += gates.back();
      }
      offsets.push_back(int64_t(tokens.size()));
    }
    for (size_t a = 0; a < tokens.size(); ++a) gates[a] /= total[tokens[a]];
    for (const double sum : total) routed.push_back(sum > 0);
    hints = normals<double>(tokens.size() * kHint, key);
    const int64_t n = int64_t(tokens.size());
    routing.num_tokens = num_tokens;
    routing.num_experts = kExperts;
    routing.num_slots = n;
    routing.expert_offsets = view(offsets, {kExperts + 1});
    routing.slot_token = view(tokens, {n});
    routing.slot_gate = view(gates, {n});
    routing.slot_hint = view(hints, {n, kHint});
  }
  std::vector<int64_t> offsets;
  std::vector<int32_t> tokens;
  std::vector<double> gates, hints;
  std::vector<bool> routed;
  Routing<double> routing;
};

struct DispatchRig {
  explicit DispatchRig(comm::Mesh& mesh, DispatchKind kind = DispatchKind::kExchange,
                       int64_t hint_width = kHint, int64_t max_tokens = kTokens)
      : dispatcher(make_dispatcher<double>(queue, cpu_moe_kernels<double>(),
                                           {mesh.expert(), mesh.expert_peers()},
                                           {.dim = kDim,
                                            .max_tokens = max_tokens,
                                            .max_slots = max_tokens * kExperts,
                                            .num_experts = kExperts,
                                            .hint_width = hint_width},
                                           kind)) {
    dispatcher->reserve(saved, scratch);
    saved.allocate();
    scratch.allocate();
    scratch.release(0);
    dispatcher->reserve(saved, scratch);
  }
  device::CpuQueue queue{1};
  device::Arena saved{"saved", device::DeviceKind::kCpu}, scratch{"scratch", device::DeviceKind::kCpu};
  std::unique_ptr<Dispatcher<double>> dispatcher;
};

class EveryDegree : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Degrees, EveryDegree, testing::Values(1, 2, 4));

// Expert e returns (e + 1) times its row: y[t] = x[t] * sum of g (e + 1), and with identity experts y = x.
TEST_P(EveryDegree, CombineUndoesDispatchForAnyRouting) {
  comm::run_threads(GetParam(), [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = GetParam()});
    DispatchRig rig(mesh);
    for (uint64_t round = 0; round < 20; ++round) {
      RandomRouting random(base::mix(round, world.rank()));
      if (round == 3 && world.rank() == 0) random.routing.num_tokens = 0;  // no tokens at all on this rank
      const int64_t tokens = random.routing.num_tokens;
      if (tokens == 0) {
        std::fill(random.offsets.begin(), random.offsets.end(), 0);
        random.routing.num_slots = 0;
      }
      const auto x = normals<double>(tokens * kDim, round);
      rig.dispatcher->send_tokens(view(x, {tokens, kDim}), random.routing);
      const auto& slots = rig.dispatcher->receive_tokens();
      std::vector<double> out;
      for (int64_t a = 0; a < slots.num_slots(); ++a)
        for (const double v : slots.rows[slots.slot_row[a]]) out.push_back(v);
      std::vector<double> y(tokens * kDim, 5);
      rig.dispatcher->combine(view(std::as_const(out), {slots.num_slots(), kDim}), true,
                              view(y, {tokens, kDim}));
      for (int64_t i = 0; i < tokens * kDim; ++i)
        ASSERT_NEAR(y[i], 5 + (random.routed[i / kDim] ? x[i] : 0), 1e-14)
            << "round " << round << " element " << i;
    }
  });
}

// What every slot's gate, hint and row should be is known at home; the expert side returns them as gradients.
TEST_P(EveryDegree, GradientsComeBackToTheSlotsTheyBelongTo) {
  comm::run_threads(GetParam(), [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = GetParam()});
    DispatchRig rig(mesh);
    for (uint64_t round = 0; round < 20; ++round) {
      RandomRouting random(base::mix(round, world.rank()));
      const auto x = normals<double>(kTokens * kDim, round),
                 dy = normals<double>(kTokens * kDim, round + 100);
      rig.dispatcher->send_tokens(view(x, {kTokens, kDim}), random.routing);
      const auto& slots = rig.dispatcher->receive_tokens();
      const int64_t n = slots.num_slots();
      std::vector<double> out(n * kDim, 0), y(kTokens * kDim);
      rig.dispatcher->combine(view(std::as_const(out), {n, kDim}), false, view(y, {kTokens, kDim}));
      rig.dispatcher->send_grad(view(dy, {kTokens, kDim}));
      const auto drows = rig.dispatcher->receive_grad();
      // dgate: local expert number * 100 + gate * <dy row, x row>; dhint: -hint; dx: dy.
      std::vector<double> dgate, dhint, dx;
      for (int64_t e = 0; e + 1 < slots.offsets.dim(0); ++e) {
        for (int64_t a = slots.offsets[e]; a < slots.offsets[e + 1]; ++a) {
          double dot = 0;
          for (int d = 0; d < kDim; ++d) {
            dot += drows[slots.slot_row[a]][d] * slots.rows[slots.slot_row[a]][d];
            dx.push_back(drows[slots.slot_row[a]][d]);
          }
          dgate.push_back(100.0 * double(e) + slots.slot_gate[a] * dot);
          for (int i = 0; i < kHint; ++i) dhint.push_back(-slots.slot_hint[a][i]);
        }
      }
      std::vector<double> dx_home(kTokens * kDim, 99);
      rig.dispatcher->send_home(view(std::as_const(dx), {n, kDim}),
                                {view(std::as_const(dgate), {n}), view(std::as_const(dhint), {n, kHint})},
                                false, view(dx_home, {kTokens, kDim}));
      // The gradients of the weights take the place of what travels home.
      std::fill(dx.begin(), dx.end(), std::nan(""));
      const auto home = rig.dispatcher->receive_home();
      std::vector<double> picked(kTokens);
      const int local = kExperts / GetParam();
      for (int e = 0; e < kExperts; ++e) {
        for (int64_t a = random.offsets[e]; a < random.offsets[e + 1]; ++a) {
          const int64_t t = random.tokens[a];
          ++picked[t];
          double dot = 0;
          for (int d = 0; d < kDim; ++d) dot += x[t * kDim + d] * dy[t * kDim + d];
          ASSERT_NEAR(home.gate[a], 100.0 * (e % local) + random.gates[a] * dot, 1e-12);
          for (int i = 0; i < kHint; ++i) ASSERT_EQ(home.hint[a][i], -random.hints[a * kHint + i]);
        }
      }
      for (int64_t i = 0; i < kTokens * kDim; ++i) ASSERT_NEAR(dx_home[i], picked[i / kDim] * dy[i], 1e-12);
    }
  });
}

// What a dispatcher gives the home side: outputs, gradients of tokens and of gates.
struct AtHome {
  std::vector<double> y, dx, gate;
};

// Forward and backward with experts that scale by expert and by a bit of the row, so that each slot differs. early: where
// slots say whose they are, this rank's own have no outputs yet when those of the others leave.
AtHome pass(DispatchRig& rig, RandomRouting& random, int64_t first_expert, uint64_t round, bool early) {
  const int64_t tokens = random.routing.num_tokens, width = kTokens * kExperts;
  random.gates.resize(size_t(width));
  random.tokens.resize(size_t(width), -1);
  random.routing.slot_token = view(random.tokens, {width});
  random.routing.slot_gate = view(random.gates, {width});
  const auto x = normals<double>(size_t(kTokens * kDim), round),
             dy = normals<double>(size_t(kTokens * kDim), round + 1);
  const auto rows = [&](const std::vector<double>& v) { return view(v, {kTokens, kDim}).rows(0, tokens); };
  rig.dispatcher->start_tokens(rows(x));
  rig.dispatcher->send_tokens(rows(x), random.routing);
  const ExpertSlots<double>& slots = rig.dispatcher->receive_tokens();
  const int64_t n = slots.num_slots();
  std::vector<double> out(size_t(n * kDim), std::nan("")), dgate(size_t(n), std::nan(""));
  const auto each = [&](const auto& body) {
    for (int64_t e = 0; e + 1 < slots.offsets.dim(0); ++e)
      for (int64_t a = slots.offsets[e]; a < slots.offsets[e + 1]; ++a) body(e, a);
  };
  early = early && !slots.rank_begins.empty();
  const auto own = [&](int64_t e, int64_t a) {
    return a >= slots.rank_begins[slots.rank][e] && a < slots.rank_begins[slots.rank + 1][e];
  };
  for (const bool late : {false, true}) {
    each([&](int64_t e, int64_t a) {
      for (int64_t d = 0; d < kDim && !(early && own(e, a) != late); ++d)
        out[size_t(a * kDim + d)] = double(first_expert + e + 1) * slots.rows[slots.slot_row[a]][d];
    });
    if (early && !late) rig.dispatcher->send_outputs(view(std::as_const(out), {n, kDim}));
  }
  AtHome home{
      std::vector<double>(size_t(tokens * kDim), 5), std::vector<double>(size_t(tokens * kDim), 99), {}};
  rig.dispatcher->combine(view(std::as_const(out), {n, kDim}), true, view(home.y, {tokens, kDim}));
  rig.dispatcher->send_grad(rows(dy));
  const auto drows = rig.dispatcher->receive_grad();
  each([&](int64_t e, int64_t a) {
    dgate[size_t(a)] = slots.slot_gate[a] + 100.0 * double(first_expert + e);
    for (int64_t d = 0; d < kDim; ++d)
      out[size_t(a * kDim + d)] = slots.slot_gate[a] * double(e + 2) * drows[slots.slot_row[a]][d];
  });
  rig.dispatcher->send_home(view(std::as_const(out), {n, kDim}), {view(std::as_const(dgate), {n}), {}}, false,
                            view(home.dx, {tokens, kDim}));
  std::fill(out.begin(), out.end(), std::nan(""));
  const auto grads = rig.dispatcher->receive_home();
  home.gate.assign(grads.gate.begin(), grads.gate.begin() + random.offsets.back());
  return home;
}

// All ways of sending add up the same numbers in the same order; ranks have different numbers of tokens, also none. The
// large dispatchers go through the same memory as the ones before them, in turns.
TEST_P(EveryDegree, GatherPeerCopyAndExchangeGiveTheSameBits) {
  comm::run_threads(GetParam(), [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = GetParam()});
    DispatchRig exchange(mesh, DispatchKind::kExchange, 0);
    DispatchRig gather(mesh, DispatchKind::kGather, 0), peer(mesh, DispatchKind::kPeer, 0),
        large_peer(mesh, DispatchKind::kPeer, 0, kTokens + 2), copy(mesh, DispatchKind::kCopy, 0),
        large_copy(mesh, DispatchKind::kCopy, 0, kTokens + 2);
    const int64_t first = world.rank() * (kExperts / GetParam());
    for (uint64_t round = 0; round < 20; ++round) {
      const int64_t tokens =
          round % 4 == 3 && world.rank() == 0 ? 0 : kTokens - int64_t(round + world.rank()) % 3;
      const uint64_t key = base::mix(round, world.rank()), values = base::mix(round + 1000, world.rank());
      RandomRouting routing(key, tokens);
      const AtHome expected = pass(exchange, routing, first, values, false);
      for (DispatchRig* rig : {&gather, &peer, &large_peer, &copy, &large_copy}) {
        RandomRouting other(key, tokens);
        const AtHome got = pass(*rig, other, first, values, round % 2 == 0);
        ASSERT_EQ(got.y, expected.y) << "round " << round;
        ASSERT_EQ(got.dx, expected.dx) << "round " << round;
        ASSERT_EQ(got.gate, expected.gate) << "round " << round;
      }
    }
  });
}

// The rows of a rank that nobody chose are not read: its part of what was received stays as it was.
TEST(Dispatch, PeersReadOnlyRowsThatWereRoutedToThem) {
  comm::run_threads(2, [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = 2});
    DispatchRig rig(mesh, DispatchKind::kPeer, 0);
    // Every token takes experts 2 and 3, of rank 1.
    RandomRouting far(1);
    far.offsets = {0, 0, 0, 9, 18};
    far.tokens.clear();
    for (int a = 0; a < 18; ++a) far.tokens.push_back(a % 9);
    far.gates.assign(18, 0.5);
    far.routing.num_slots = 18;
    far.routing.expert_offsets = view(far.offsets, {5});
    far.routing.slot_token = view(far.tokens, {18});
    far.routing.slot_gate = view(far.gates, {18});
    const auto x = normals<double>(kTokens * kDim, 1);
    rig.dispatcher->start_tokens(view(x, {kTokens, kDim}));
    rig.dispatcher->send_tokens(view(x, {kTokens, kDim}), far.routing);
    const auto& slots = rig.dispatcher->receive_tokens();
    EXPECT_EQ(slots.offsets[2], world.rank() == 1 ? 36 : 0);
    for (int64_t i = 0; i < 2 * kTokens * kDim; ++i)
      ASSERT_EQ(slots.rows.data()[i], world.rank() == 1 ? x[size_t(i % (kTokens * kDim))] : 0);
    // Outputs of 1 and 2 for rank 0's and rank 1's tokens come home, to a rank without experts too.
    std::vector<double> out(size_t(slots.num_slots() * kDim), 0), y(size_t(kTokens * kDim), 7);
    for (int64_t a = 0; a < slots.offsets[2]; ++a)
      std::fill_n(out.begin() + a * kDim, kDim, slots.slot_row[a] < kTokens ? 1 : 2);
    rig.dispatcher->combine(view(std::as_const(out), {slots.num_slots(), kDim}), false,
                            view(y, {kTokens, kDim}));
    EXPECT_EQ(y, std::vector<double>(size_t(kTokens * kDim), world.rank() == 0 ? 1 : 2));
  });
}

TEST(Dispatch, PeerAndCopyRefuseRoutersWithHints) {
  for (const DispatchKind kind : {DispatchKind::kPeer, DispatchKind::kCopy}) {
    const std::string name = fmt::format("moe.dispatch: {}", name_of(kind));
    try {
      comm::run_threads(2, [&](comm::World& world) {
        comm::Mesh mesh(world, {.ep = 2});
        DispatchRig rig(mesh, kind);
      });
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

// A rank that does not come to copy: the others end with the code for lost ranks, and name it.
TEST(Dispatch, CopyEndsWhenARankDoesNotCome) {
  try {
    comm::run_threads(2, [&](comm::World& world) {
      comm::Mesh mesh(world, {.ep = 2});
      DispatchRig rig(mesh, DispatchKind::kCopy, 0);
      mesh.expert().set_timeout(std::chrono::milliseconds(200));
      if (world.rank() == 1) fail(ExitCode::kData, "gone");
      const auto x = normals<double>(kTokens * kDim, 1);
      rig.dispatcher->start_tokens(view(x, {kTokens, kDim}));
      ADD_FAILURE() << "came without rank 1";
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kComm);
    EXPECT_NE(std::string(error.what()).find("rank 1 did not come"), std::string::npos) << error.what();
  }
}

// Row and slot counts of the exchange: a token's row comes once however many of its experts live there.
TEST(Dispatch, SendsATokenOncePerDestinationRank) {
  comm::run_threads(2, [&](comm::World& world) {
    comm::Mesh mesh(world, {.ep = 2});
    DispatchRig rig(mesh);
    // Every token takes all four experts.
    RandomRouting all(1);
    all.offsets = {0, 9, 18, 27, 36};
    all.tokens.clear();
    for (int a = 0; a < 36; ++a) all.tokens.push_back(a % 9);
    all.gates.assign(36, 0.25);
    all.hints.assign(36 * kHint, 0);
    all.routing.num_slots = 36;
    all.routing.expert_offsets = view(all.offsets, {5});
    all.routing.slot_token = view(all.tokens, {36});
    all.routing.slot_gate = view(all.gates, {36});
    all.routing.slot_hint = view(all.hints, {36, kHint});
    const auto x = normals<double>(kTokens * kDim, 1);
    rig.dispatcher->send_tokens(view(x, {kTokens, kDim}), all.routing);
    const auto& slots = rig.dispatcher->receive_tokens();
    EXPECT_EQ(slots.rows.dim(0), 2 * kTokens);  // 9 of each rank, not 18
    EXPECT_EQ(slots.num_slots(), 2 * 2 * kTokens);
  });
}

}  // namespace
}  // namespace cadre::moe
