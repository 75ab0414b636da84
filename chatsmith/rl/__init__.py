"""Reinforcement learning with verifiable rewards: objective, rollouts and the loop of rounds."""
