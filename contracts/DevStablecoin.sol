// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @title A stablecoin for LOCAL CHAINS ONLY: its owner prints money and nobody audited it.
/// @notice It behaves like Circle's FiatTokenV2.2 wherever a payer or a facilitator can look: selectors, events and
/// their order, revert reasons, EIP-712 domain, smart-wallet signatures. The wording is its own.
/// @dev There is no constructor and no immutable, because the local chain sets this runtime code at the address of
/// Base Sepolia's USDC. Whoever sets it also sets storage slot 0 to the owner's address (right-aligned).
contract DevStablecoin {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
    event Pause();
    event Unpause();
    event Blacklisted(address indexed account);
    event UnBlacklisted(address indexed account);

    string public constant name = "USDC";
    string public constant symbol = "USDC";
    string public constant version = "2";
    uint8 public constant decimals = 6;

    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant RECEIVE_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 public constant CANCEL_AUTHORIZATION_TYPEHASH =
        keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    bytes32 private constant NAME_HASH = keccak256("USDC");
    bytes32 private constant VERSION_HASH = keccak256("2");

    uint256 private constant BLACKLISTED = 1 << 255;
    uint256 private constant BALANCE_MAX = BLACKLISTED - 1;

    // References to these keep a place that was looked up: a mapping would hash its key again at each use.
    struct Account {
        uint256 word; // the highest bit says that it is blacklisted, the rest is its balance: one read answers both
    }

    struct Authorization {
        uint256 used;
    }

    address public owner; // slot 0, bytes 0 to 19
    bool public paused; // slot 0, byte 20
    uint256 public totalSupply; // slot 1
    mapping(address account => Account) private _accounts; // slot 2
    mapping(address authorizer => mapping(bytes32 nonce => Authorization)) private _authorizations; // slot 3
    mapping(address holder => mapping(address spender => uint256 amount)) public allowance; // slot 4

    modifier onlyOwner() {
        require(msg.sender == owner, "Ownable: caller is not the owner");
        _;
    }

    modifier whenNotPaused() {
        require(!paused, "Pausable: paused");
        _;
    }

    modifier notBlacklisted(address account) {
        require(!isBlacklisted(account), "Blacklistable: account is blacklisted");
        _;
    }

    // ---- the owner's

    function pause() external onlyOwner {
        paused = true;
        emit Pause();
    }

    function unpause() external onlyOwner {
        paused = false;
        emit Unpause();
    }

    function blacklist(address account) external onlyOwner {
        _accounts[account].word |= BLACKLISTED;
        emit Blacklisted(account);
    }

    function unBlacklist(address account) external onlyOwner {
        _accounts[account].word &= BALANCE_MAX;
        emit UnBlacklisted(account);
    }

    function mint(address to, uint256 amount) external onlyOwner {
        _print(to, amount);
    }

    /// @notice The same amount to each of many accounts.
    function mintMany(address[] calldata to, uint256 amount) external onlyOwner {
        for (uint256 i = 0; i < to.length; ++i) {
            _print(to[i], amount);
        }
    }

    // ---- ERC-20

    function balanceOf(address account) public view returns (uint256) {
        return _accounts[account].word & BALANCE_MAX;
    }

    function isBlacklisted(address account) public view returns (bool) {
        return _accounts[account].word & BLACKLISTED != 0;
    }

    function transfer(address to, uint256 value)
        external
        whenNotPaused
        returns (bool)
    {
        (Account storage payer, uint256 balance) = _allowed(msg.sender);
        (Account storage payee,) = _allowed(to);
        _transfer(msg.sender, payer, balance, to, payee, value);
        return true;
    }

    function approve(address spender, uint256 value)
        external
        whenNotPaused
        notBlacklisted(msg.sender)
        notBlacklisted(spender)
        returns (bool)
    {
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value)
        external
        whenNotPaused
        notBlacklisted(msg.sender)
        returns (bool)
    {
        (Account storage payer, uint256 balance) = _allowed(from);
        (Account storage payee,) = _allowed(to);
        uint256 allowed = allowance[from][msg.sender];
        require(value <= allowed, "ERC20: transfer amount exceeds allowance");
        allowance[from][msg.sender] = allowed - value;
        _transfer(from, payer, balance, to, payee, value);
        return true;
    }

    // ---- EIP-3009

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
    }

    /// @notice Whether the authorization was used or cancelled.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool) {
        return _authorizations[authorizer][nonce].used != 0;
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external whenNotPaused {
        (Account storage payer, uint256 balance) = _allowed(from);
        (Account storage payee,) = _allowed(to);
        Authorization storage authorization = _unused(from, nonce, validAfter, validBefore);
        bytes32 structHash = keccak256(
            abi.encode(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        _requireSigned(from, structHash, v, r, s);
        authorization.used = 1;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, payer, balance, to, payee, value);
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external whenNotPaused {
        (Account storage payer, uint256 balance) = _allowed(from);
        (Account storage payee,) = _allowed(to);
        Authorization storage authorization = _unused(from, nonce, validAfter, validBefore);
        bytes32 structHash = keccak256(
            abi.encode(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        _requireSigned(from, structHash, signature);
        authorization.used = 1;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, payer, balance, to, payee, value);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external whenNotPaused {
        (Account storage payer, uint256 balance) = _allowed(from);
        (Account storage payee,) = _allowed(to);
        require(to == msg.sender, "FiatTokenV2: caller must be the payee");
        Authorization storage authorization = _unused(from, nonce, validAfter, validBefore);
        bytes32 structHash = keccak256(
            abi.encode(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        _requireSigned(from, structHash, v, r, s);
        authorization.used = 1;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, payer, balance, to, payee, value);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external whenNotPaused {
        (Account storage payer, uint256 balance) = _allowed(from);
        (Account storage payee,) = _allowed(to);
        require(to == msg.sender, "FiatTokenV2: caller must be the payee");
        Authorization storage authorization = _unused(from, nonce, validAfter, validBefore);
        bytes32 structHash = keccak256(
            abi.encode(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce)
        );
        _requireSigned(from, structHash, signature);
        authorization.used = 1;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, payer, balance, to, payee, value);
    }

    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s)
        external
        whenNotPaused
    {
        Authorization storage authorization = _unused(authorizer, nonce);
        _requireSigned(authorizer, _cancelHash(authorizer, nonce), v, r, s);
        authorization.used = 1;
        emit AuthorizationCanceled(authorizer, nonce);
    }

    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) external whenNotPaused {
        Authorization storage authorization = _unused(authorizer, nonce);
        _requireSigned(authorizer, _cancelHash(authorizer, nonce), signature);
        authorization.used = 1;
        emit AuthorizationCanceled(authorizer, nonce);
    }

    function _unused(address authorizer, bytes32 nonce, uint256 validAfter, uint256 validBefore)
        private
        view
        returns (Authorization storage)
    {
        require(block.timestamp > validAfter, "FiatTokenV2: authorization is not yet valid");
        require(block.timestamp < validBefore, "FiatTokenV2: authorization is expired");
        return _unused(authorizer, nonce);
    }

    function _unused(address authorizer, bytes32 nonce) private view returns (Authorization storage authorization) {
        authorization = _authorizations[authorizer][nonce];
        require(authorization.used == 0, "FiatTokenV2: authorization is used or canceled");
    }

    function _cancelHash(address authorizer, bytes32 nonce) private pure returns (bytes32) {
        return keccak256(abi.encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce));
    }

    // An account with code is asked itself (EIP-1271), EIP-7702 accounts too; any other has to have made the signature.
    function _requireSigned(address signer, bytes32 structHash, bytes memory signature) private view {
        bytes32 digest = _digest(structHash);
        bool valid;
        if (signer.code.length == 0) {
            require(signature.length == 65, "ECRecover: invalid signature length");
            (bytes32 r, bytes32 s, uint8 v) = (_word(signature, 0), _word(signature, 32), uint8(signature[64]));
            valid = _recover(digest, v, r, s) == signer;
        } else {
            valid = _agrees(signer, digest, signature);
        }
        require(valid, "FiatTokenV2: invalid signature");
    }

    // A key's signature, as nearly all are, is not put together in memory first.
    function _requireSigned(address signer, bytes32 structHash, uint8 v, bytes32 r, bytes32 s) private view {
        bytes32 digest = _digest(structHash);
        bool valid = signer.code.length == 0
            ? _recover(digest, v, r, s) == signer
            : _agrees(signer, digest, abi.encodePacked(r, s, v));
        require(valid, "FiatTokenV2: invalid signature");
    }

    function _digest(bytes32 structHash) private view returns (bytes32 digest) {
        bytes32 separator = DOMAIN_SEPARATOR();
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, hex"1901")
            mstore(add(free, 2), separator)
            mstore(add(free, 34), structHash)
            digest := keccak256(free, 66)
        }
    }

    function _word(bytes memory data, uint256 offset) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), offset))
        }
    }

    function _recover(bytes32 digest, uint8 v, bytes32 r, bytes32 s) private pure returns (address) {
        (address recovered, ECDSA.RecoverError fault,) = ECDSA.tryRecover(digest, v, r, s);
        if (fault != ECDSA.RecoverError.NoError) {
            require(fault != ECDSA.RecoverError.InvalidSignatureS, "ECRecover: invalid signature 's' value");
            require(v == 27 || v == 28, "ECRecover: invalid signature 'v' value");
            revert("ECRecover: invalid signature");
        }
        return recovered;
    }

    function _agrees(address wallet, bytes32 digest, bytes memory signature) private view returns (bool) {
        (bool answered, bytes memory answer) =
            wallet.staticcall(abi.encodeCall(IERC1271.isValidSignature, (digest, signature)));
        return answered && answer.length >= 32
            && abi.decode(answer, (bytes32)) == bytes32(IERC1271.isValidSignature.selector);
    }

    // ---- balances

    /// An account that is not blacklisted: its word is its balance.
    function _allowed(address account) private view returns (Account storage found, uint256 balance) {
        found = _accounts[account];
        balance = found.word;
        require(balance & BLACKLISTED == 0, "Blacklistable: account is blacklisted");
    }

    /// `balance` is the payer's, as `_allowed` found it; the payee may be the payer.
    function _transfer(
        address from,
        Account storage payer,
        uint256 balance,
        address to,
        Account storage payee,
        uint256 value
    ) private {
        require(from != address(0), "ERC20: transfer from the zero address");
        require(to != address(0), "ERC20: transfer to the zero address");
        require(value <= balance, "ERC20: transfer amount exceeds balance");
        unchecked {
            payer.word = balance - value;
            payee.word += value; // the sum of all balances is totalSupply, which is below BALANCE_MAX
        }
        emit Transfer(from, to, value);
    }

    function _print(address to, uint256 amount) private notBlacklisted(to) {
        require(to != address(0), "FiatToken: mint to the zero address");
        totalSupply += amount;
        require(totalSupply <= BALANCE_MAX, "DevStablecoin: that is more money than fits");
        _accounts[to].word += amount;
        emit Transfer(address(0), to, amount);
    }
}
