// The kernels of a layer in a pass of generation, one after the other without a wait of the host.
#include "parallel/device/recording.h"
#include "tests/moe/cuda/pass_case.h"

namespace cadre::moe {
namespace {

template <class T>
class PassOfGeneration : public BothSides<T> {};
TYPED_TEST_SUITE(PassOfGeneration, Storages);

// Most kernels come before the one that they read from is done: one that did not wait would find the last round's values.
TYPED_TEST(PassOfGeneration, KernelsOfAPassWaitForTheOneBefore) {
  using T = TypeParam;
  enum class Way { kWaits, kQueued, kRecorded };
  const auto of = [&](Way way) {
    return this->on_gpu([&](Side<T>& s) {
      const auto recording = device::make_recording(s.queue);
      return rounds_of_a_layer<T>(
          s, 4,
          [&] {
            if (way == Way::kWaits) s.queue.wait();
          },
          [&](const auto& pass) { way == Way::kRecorded ? recording->run(pass) : pass(); });
    });
  };
  const Results expected = of(Way::kWaits);
  EXPECT_NE(expected[0], expected[2]);
  expect_same(of(Way::kQueued), expected);
  expect_same(of(Way::kRecorded), expected);
}

}  // namespace
}  // namespace cadre::moe
