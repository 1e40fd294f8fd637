#include "data/curricula/staged_curriculum.h"

#include <algorithm>
#include <cmath>

namespace cadre::data {
namespace {
constexpr int kStages = 20;  // the order changes in steps of 5% of a domain's text
}

std::vector<std::vector<double>> staged_shares(const std::vector<double>& size,
                                               const std::vector<double>& time, double sharpness,
                                               int stages) {
  std::vector<std::vector<double>> table(size.size(), std::vector<double>(size_t(stages)));
  for (size_t b = 0; b < size.size(); ++b) {
    for (int s = 0; s < stages; ++s) {
      const double distance = time[b] - (s + 0.5) / stages;
      table[b][size_t(s)] = size[b] > 0 ? std::exp(-sharpness * distance * distance) : 0;
    }
  }
  constexpr double kClose = 1e-14;
  constexpr int kMostRounds = 100000;
  double change = 1;
  for (int round = 0; round < kMostRounds && change > kClose; ++round) {
    change = 0;
    for (size_t b = 0; b < size.size(); ++b) {
      double sum = 0;
      for (const double x : table[b]) sum += x;
      if (sum == 0) continue;
      change = std::max(change, std::abs(size[b] / sum - 1));
      for (double& x : table[b]) x *= size[b] / sum;
    }
    for (int s = 0; s < stages; ++s) {
      double sum = 0;
      for (const auto& row : table) sum += row[size_t(s)];
      for (auto& row : table) row[size_t(s)] /= sum * stages;
    }
  }
  return table;
}

StagedCurriculum::StagedCurriculum(const Corpus& units, std::vector<uint8_t> bucket,
                                   const std::vector<double>& time, double sharpness)
    : num_buckets_(int(time.size())), bucket_(std::move(bucket)) {
  std::vector<std::vector<double>> tokens(size_t(units.num_domains()), std::vector<double>(time.size(), 0.0));
  for (int64_t d = 0; d < units.num_documents(); ++d) {
    tokens[size_t(units.document(d).domain)][bucket_[size_t(d)]] += double(units.document(d).length - 1);
  }
  for (std::vector<double>& size : tokens) {
    double all = 0;
    for (const double n : size) all += n;
    for (double& n : size) n = all > 0 ? n / all : 1 / double(size.size());
    shares_.push_back(staged_shares(size, time, sharpness, kStages));
  }
}

std::vector<double> StagedCurriculum::quota(double domain_progress, int domain) const {
  const double u = std::clamp(domain_progress, 0.0, 1.0);
  const size_t stage = std::min(size_t(u * kStages), size_t(kStages - 1));
  std::vector<double> out;
  for (const auto& row : shares_[size_t(domain)]) out.push_back(row[stage] * kStages);
  return out;
}

}  // namespace cadre::data
