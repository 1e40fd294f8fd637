// A part of a world's ranks as a world of its own, for programs whose ranks do different things. Communicators are still
// made by all ranks of the whole: every part must make as many, and at the same times.
#pragma once

#include "parallel/comm/mesh.h"

namespace cadre::comm {

class SubWorld final : public World {
 public:
  // The ranks of `whole` from `first` on, `count` of them; `part` numbers the parts from 0. `whole` is borrowed.
  SubWorld(World& whole, int first, int count, int part)
      : whole_(whole), first_(first), count_(count), part_(part) {}
  int rank() const override { return whole_.rank() - first_; }
  int size() const override { return count_; }
  int local_size() const override { return whole_.local_size(); }
  int local_rank() const override { return whole_.local_rank(); }
  std::unique_ptr<Communicator> split(const Colors& color_of, const std::string& name) override {
    // Ranks of other parts ask for groups of their own.
    return whole_.split(
        [&](int rank) {
          const bool here = rank >= first_ && rank < first_ + count_;
          return here ? part_ * whole_.size() + color_of(rank - first_) : -1;
        },
        name);
  }
  void abort(int exit_code) override { whole_.abort(exit_code); }

 private:
  World& whole_;
  int first_, count_, part_;
};

}  // namespace cadre::comm
