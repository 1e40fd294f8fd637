#include "trainer/run/probe_store.h"

#include "parallel/device/transfer.h"
#include "trainer/influence/score_tap.h"

namespace cadre::trainer {
namespace {

using device::Group;
using device::View;

template <class T>
ScoreTapContext<T> tap_context(ModelState& model, int64_t max_tokens) {
  return {.queue = &model.queue,
          .kernels = &device::device_kernels<T>(model.queue.kind()),
          .moe_kernels = &moe::moe_kernels<T>(model.queue.kind()),
          .expert = &model.mesh.expert(),
          .max_tokens = max_tokens};
}

template <class T>
class StoreOf final : public ProbeStore {
 public:
  StoreOf(ModelState& model, comm::GradReducer<T>& reducer, int64_t max_tokens)
      : model_(model),
        reducer_(reducer),
        store_(static_cast<device::ParamStore<T>&>(model.store)),
        kernels_(influence_kernels<T>(model.queue.kind())),
        direction_(model.layout, model.queue.kind(), false),
        tap_(tap_context<T>(model, max_tokens), direction_),
        sum_(model.queue.kind(), sizeof(double)) {}

  device::AnyTap* tap() override { return &tap_; }
  std::span<const double> finish_scores(int64_t num_tokens) override { return tap_.finish(num_tokens); }

  void blend_gradient(Group group, const comm::Piece& piece, double keep, View<W, 1> mean) override {
    if (store_.grad_sums(group).empty()) {
      kernels_.blend(model_.queue, keep, part(store_.grads(group), piece), mean);
    } else {
      kernels_.blend_wide(model_.queue, keep, part(store_.grad_sums(group), piece), mean);
    }
  }

  void set_direction(Group group, const comm::Piece& piece, View<const W, 1> values) override {
    kernels_.narrow(model_.queue, values, part(direction_.values(group), piece));
  }

  void gather_direction() override {
    for (const Group group : {Group::kDense, Group::kExpert})
      reducer_.all_gather(group, direction_.values(group), "influence direction");
  }

  double direction_dot_gradient(const optim::OwnedSlices& slices) override {
    const View<double, 1> sum(reinterpret_cast<double*>(sum_.data()), {1});
    device::zero(model_.queue, sum);
    for (const Group group : {Group::kDense, Group::kExpert}) {
      if (!slices.in_norm[int(group)]) continue;
      const bool summed = !store_.grad_sums(group).empty();
      for (const comm::Piece& piece : slices.pieces[int(group)]) {
        const auto direction = part(direction_.values(group), piece);
        if (summed) {
          kernels_.add_dot_wide(model_.queue, direction, part(store_.grad_sums(group), piece), sum);
        } else {
          kernels_.add_dot(model_.queue, direction, part(store_.grads(group), piece), sum);
        }
      }
    }
    double result = 0;
    device::download<double>(model_.queue, sum, {&result, 1});
    model_.queue.wait();
    return result;
  }

  // Gradients in bf16 keep 8 bits of what the scores have in fp32.
  double tolerance() const override { return device::ParamStore<T>::kWide ? 1e-3 : 1e-2; }

 private:
  template <class U>
  static View<U, 1> part(const View<U, 1>& flat, const comm::Piece& piece) {
    return flat.rows(piece.group_offset, piece.count);
  }

  ModelState& model_;
  comm::GradReducer<T>& reducer_;
  device::ParamStore<T>& store_;
  const InfluenceKernels<T>& kernels_;
  device::ParamStore<T> direction_;
  ScoreTap<T> tap_;
  device::Buffer sum_;
};

template <class T>
std::unique_ptr<ProbeStore> make(ModelState& model, comm::Reducer& reducer, int64_t max_tokens) {
  return std::make_unique<StoreOf<T>>(model, static_cast<comm::GradReducer<T>&>(reducer), max_tokens);
}

}  // namespace

std::unique_ptr<ProbeStore> make_probe_store(ModelState& model, comm::Reducer& reducer, int64_t max_tokens) {
  return model.bf16() ? make<device::bf16>(model, reducer, max_tokens)
                      : make<Real>(model, reducer, max_tokens);
}

}  // namespace cadre::trainer
