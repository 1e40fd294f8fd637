#include "parallel/device/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "parallel/base/errors.h"

namespace cadre::device {
namespace {

TEST(Buffer, IsZeroFilledAlignedAndMoves) {
  Buffer a(DeviceKind::kCpu, 100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 64, 0u);
  EXPECT_TRUE(std::all_of(a.data(), a.data() + a.bytes(), [](std::byte b) { return b == std::byte(0); }));
  a.data()[99999] = std::byte(7);
  Buffer b = std::move(a);
  EXPECT_EQ(b.data()[99999], std::byte(7));
  EXPECT_EQ(b.bytes(), 100000u);
  EXPECT_EQ(Buffer(DeviceKind::kCpu, 0).data(), nullptr);
}

TEST(Buffer, UntouchedPagesCostNothing) {
  Buffer huge(DeviceKind::kCpu, size_t(256) << 30);  // more than any test machine has
  huge.data()[size_t(128) << 30] = std::byte(1);
  EXPECT_EQ(huge.data()[0], std::byte(0));
}

TEST(Buffer, SaysWhatCannotBeHad) {
  try {
    Buffer(DeviceKind::kCpu, size_t(1) << 60);
    FAIL() << "an exbibyte was granted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("1073741824.00 GiB"), std::string::npos) << error.what();
  }
}

struct Views {
  View<float, 2> a;
  View<double, 1> b;
  View<int32_t, 1> c, d;
};

Views reserve(Arena& arena) {
  Views v;
  v.a = arena.take<float, 2>({3, 5});
  const size_t mark = arena.mark();
  v.b = arena.take<double, 1>({100});
  arena.release(mark);
  v.c = arena.take<int32_t, 1>({7});
  v.d = arena.take<int32_t, 1>({0});
  return v;
}

TEST(Arena, MeasuresThenGivesAlignedViewsOfOneAllocation) {
  Arena arena("activations", DeviceKind::kCpu);
  EXPECT_EQ(reserve(arena).a.data(), nullptr);
  EXPECT_TRUE(arena.measuring());
  EXPECT_EQ(arena.bytes(), 64u + 800u);  // the peak, not the sum: b was released before c
  arena.allocate();
  EXPECT_FALSE(arena.measuring());
  const Views v = reserve(arena);
  EXPECT_EQ(v.a.dim(1), 5);
  for (const void* p : {static_cast<const void*>(v.a.data()), static_cast<const void*>(v.b.data()),
                        static_cast<const void*>(v.c.data())}) {
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
  }
  EXPECT_EQ(static_cast<void*>(v.c.data()), static_cast<void*>(v.b.data()))
      << "released memory is used again";
  EXPECT_EQ(reinterpret_cast<std::byte*>(v.b.data()) - reinterpret_cast<std::byte*>(v.a.data()), 64);
}

TEST(Arena, AskingForMoreThanWasMeasuredNamesTheArena) {
  Arena arena("scratch", DeviceKind::kCpu);
  arena.take<float, 1>({16});
  arena.allocate();
  EXPECT_NO_THROW((arena.take<float, 1>({16})));
  try {
    arena.take<float, 1>({1});
    FAIL() << "the arena grew";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("arena 'scratch': asked for 4 bytes with 64 in use"),
              std::string::npos)
        << error.what();
  }
}

TEST(Arena, OverMemoryOfAnotherMeasuresWithItAndGivesTheSamePlacesAfterARelease) {
  Arena whole("whole", DeviceKind::kCpu);
  const auto part = [&] { return Arena("part", whole.take<std::byte, 1>({128})); };
  EXPECT_TRUE(part().measuring());
  whole.release(0);
  whole.allocate();
  const View<std::byte, 1> first = whole.take<std::byte, 1>({128});
  Arena turns("turns", first);
  for (int user = 0; user < 2; ++user) {
    EXPECT_EQ(static_cast<void*>((turns.take<float, 1>({32})).data()), static_cast<void*>(first.data()));
    turns.release(0);
  }
  EXPECT_THROW((turns.take<float, 1>({33})), Error);
}

TEST(Arena, AnEmptyArenaEndsMeasuringToo) {
  Arena arena("empty", DeviceKind::kCpu);
  arena.take<float, 1>({0});
  arena.allocate();
  EXPECT_FALSE(arena.measuring());
  EXPECT_NO_THROW((arena.take<float, 1>({0})));
  EXPECT_THROW((arena.take<float, 1>({1})), Error);
}

}  // namespace
}  // namespace cadre::device
