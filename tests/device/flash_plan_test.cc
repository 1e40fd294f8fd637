// Which tiles attention on sm_90a visits, against the rule itself, for random layouts of documents: the kernels ask the
// same functions, and this runs without a GPU.
#include "parallel/device/cuda/flash_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace cadre::device::cuda::hopper {
namespace {

struct Layout {
  int length;
  std::vector<int32_t> segment;
  std::vector<Document> documents;
  const Document* pointer() const { return documents.empty() ? nullptr : documents.data(); }
  bool visible(int query, int key) const {
    return key <= query && (segment.empty() || segment[size_t(query)] == segment[size_t(key)]);
  }
  int begin(int at) const { return documents.empty() ? 0 : documents[size_t(at)].begin; }
  int end(int at) const { return documents.empty() ? length : documents[size_t(at)].end; }
};

// Documents of about `mean` tokens, padding behind them; mean 0: no documents.
Layout layout(int length, int mean, std::mt19937& random) {
  Layout l{length, {}, {}};
  if (mean == 0) return l;
  const auto draw = [&](int n) { return int(random() % unsigned(n)); };
  const int padding = draw(4) == 0 ? draw(length) : 0;
  for (int own = 0, left = 0; int(l.segment.size()) < length - padding; --left) {
    if (left == 0) left = 1 + draw(2 * mean - 1), ++own;
    l.segment.push_back(own - 1);
  }
  l.segment.resize(size_t(length), -1);
  for (int at = 0; at < length; ++at) l.documents.push_back(document_of(l.segment.data(), length, at));
  return l;
}

std::vector<Layout> layouts() {
  std::mt19937 random(7);
  std::vector<Layout> all;
  for (const int length : {1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 384, 500}) {
    for (const int mean : {0, 1, 3, 40, 64, 100, 128, 300})
      for (int i = 0; i < (mean == 0 ? 1 : 3); ++i) all.push_back(layout(length, mean, random));
  }
  return all;
}

TEST(FlashPlan, FindsTheBoundsOfDocuments) {
  for (const Layout& l : layouts()) {
    for (int at = 0; at < int(l.documents.size()); ++at) {
      const Document d = l.documents[size_t(at)];
      ASSERT_TRUE(d.begin <= at && at < d.end && d.end <= l.length);
      for (int other = 0; other < l.length; ++other)
        ASSERT_EQ(other >= d.begin && other < d.end, l.segment[size_t(other)] == l.segment[size_t(at)]);
    }
  }
}

TEST(FlashPlan, EveryItemHasOneNumberAndTheRestHaveNone) {
  for (const int length : {1, 128, 129, 700, 1024}) {
    for (const int pairs : {1, 2, 7, 32}) {
      for (const int section : {1, 2, 3, 7, 8, 31, 32, 384}) {
        for (const bool rising : {false, true}) {
          const Items items{length, pairs, section};
          const int count = pairs * items.blocks();
          std::vector<int> seen(size_t(count), 0);
          Place place{};
          for (int number = 0; number < count; ++number) {
            const int before = place.block, before_pair = place.pair;
            ASSERT_TRUE(place_of(items, number, rising, place));
            ASSERT_TRUE(place.block >= 0 && place.block < items.blocks() && place.pair >= 0 &&
                        place.pair < pairs);
            ++seen[size_t(place.pair * items.blocks() + place.block)];
            if (number > 0 && before_pair / section == place.pair / section) {
              ASSERT_TRUE(rising ? before <= place.block : before >= place.block) << "longest first";
            }
          }
          ASSERT_EQ(std::vector<int>(size_t(count), 1), seen);
          for (int number = count; number < count + 300; ++number)
            ASSERT_FALSE(place_of(items, number, rising, place)) << number;
        }
      }
    }
  }
}

// What a warpgroup multiplies, `passing` being the tiles that pass by its block: all pairs that see each other lie
// inside, and where no mask is asked for all pairs do. `see(own, other)` is the kernels' mask, `visible` the rule.
template <class Need, class See, class Visible>
void check_half(const Layout& l, int width, int first, Tiles passing, Tiles own, const Need& need,
                const See& see, const Visible& visible) {
  if (own.begin < own.end) {
    ASSERT_TRUE(own.begin >= passing.begin && own.end <= passing.end);
  }
  for (int row = first; row < std::min(first + kHalf, l.length); ++row) {
    for (int other = 0; other < l.length; ++other) {
      const int tile = other / width;
      const bool inside = tile >= own.begin && tile < own.end;
      ASSERT_TRUE(inside || !visible(row, other)) << row << " misses " << other;
      if (!inside) continue;
      ASSERT_EQ(visible(row, other), !need(tile) || see(row, other)) << row << " and " << other;
    }
  }
}

template <int kKeys>
void check_keys(const Layout& l, int block) {
  const Tiles passing = keys_of_block<kKeys>(block, l.length, l.pointer());
  ASSERT_TRUE(passing.begin >= 0 && passing.begin < passing.end && (passing.end - 1) * kKeys < l.length);
  const int edge = key_edge(block, l.length, l.pointer());
  for (const int first : {block * kOwn, block * kOwn + kHalf}) {
    const Tiles own = keys_of_half<kKeys>(first, l.length, l.pointer());
    ASSERT_LT(own.begin, own.end) << "the pipeline needs a first tile";
    // Behind the end of the sequence rows see the last document and themselves: their maximum must be finite.
    ASSERT_TRUE(own.begin >= passing.begin && own.end <= passing.end);
    if (kKeys == kOwn) {
      ASSERT_EQ(own.end, passing.end) << "the forward pass begins with the tile of its own rows";
    }
    check_half(
        l, kKeys, first, passing, own, [&](int tile) { return keys_need_mask<kKeys>(tile, first, edge); },
        [&](int query, int key) { return sees(query, key, l.begin(query)); },
        [&](int query, int key) { return l.visible(query, key); });
  }
  // Nothing passes by that nobody multiplies.
  const Tiles low = keys_of_half<kKeys>(block * kOwn, l.length, l.pointer()),
              high = keys_of_half<kKeys>(block * kOwn + kHalf, l.length, l.pointer());
  ASSERT_EQ(std::min(low.begin, high.begin), passing.begin);
  ASSERT_EQ(std::max(low.end, high.end), passing.end);
}

template <int kQueries>
void check_queries(const Layout& l, int block) {
  const Tiles passing = queries_of_block<kQueries>(block, l.length, l.pointer());
  ASSERT_TRUE(passing.begin >= 0 && passing.begin < passing.end && (passing.end - 1) * kQueries < l.length);
  const int edge = query_edge(block, l.length, l.pointer());
  for (const int first : {block * kOwn, block * kOwn + kHalf}) {
    const Tiles own = queries_of_half<kQueries>(first, l.length, l.pointer());
    ASSERT_EQ(own.begin < own.end, first < l.length) << "keys behind the end are nobody's";
    check_half(
        l, kQueries, first, passing, own,
        [&](int tile) { return queries_need_mask<kQueries>(tile, first, edge); },
        [&](int key, int query) { return seen_by(key, query, l.end(key)); },
        [&](int key, int query) { return l.visible(query, key); });
  }
}

TEST(FlashPlan, TilesHoldAllThatIsSeenAndMasksHideTheRest) {
  for (const Layout& l : layouts()) {
    SCOPED_TRACE(testing::Message() << "length " << l.length << " documents " << !l.documents.empty());
    for (int block = 0; block < Items{l.length, 1, 1}.blocks(); ++block) {
      check_keys<128>(l, block);  // forward
      check_keys<64>(l, block);   // dq
      check_queries<64>(l, block);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace cadre::device::cuda::hopper
